-- retry_dead: dead letters go back to where they wait for delivery, with their retries before them again.
--
-- ARGV     1 now  then the task ids
-- Returns  for each task 1, or 0 when it is no dead letter
-- States   retry dead: dead → ready
--
-- Unlike run_task's, their queue's limits count: a thousand of them may come at once.
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
    -- What it has failed so far is forgotten by the lease, as after `rq requeue`.
    call('ZREM', DEAD .. queue, id)
    call('PERSIST', key)
    call('HSET', key, 'status', 'queued')
    make_ready(queue, id, target)
  end
  results[#results + 1] = is_dead and 1 or 0
end
return results
