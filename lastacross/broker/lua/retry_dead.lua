-- retry_dead: make dead letters ready again with all their retries.
--
-- ARGV: the current time, then the task ids.
-- Returns 1 for each task, or 0 if it is not a dead letter.
-- States   retry dead: dead → ready
--
-- Unlike in run_task, the queues' limits apply, because a thousand dead letters may be retried together.
-- include: keys
-- include: pull

local results = {}
for position = 2, #ARGV do
  local id = ARGV[position]
  local queue, key = queue_of(id), RECORD .. id
  local status, dead_at, target, description, tag = unpack(
    call('HMGET', key, 'status', 'dead_at', 'target', 'description', 'tag'))
  local is_dead = status == 'failed' and dead_at
  if is_dead and string.sub(description or '', 1, 5) == 'PULL ' then
    restore_pull_task(queue, id, tag, ARGV[1])
  elseif is_dead then
    -- The next lease resets the failure counts, as it does after `rq requeue`.
    leave_dead_group(id)
    call('ZREM', DEAD .. queue, id)
    call('PERSIST', key)
    call('HSET', key, 'status', 'queued')
    make_ready(queue, id, target)
  end
  results[#results + 1] = is_dead and 1 or 0
end
return results
