-- release_tasks: return leased, unstarted tasks to the front of their queues without counting a failure.
--
-- ARGV: for each task its id and its lease id, in the order in which the tasks were leased.
-- Returns the number of returned tasks.
-- States   release: leased → ready
-- include: keys

local released = 0
for position = #ARGV - 1, 1, -2 do
  local id, lease = ARGV[position], ARGV[position + 1]
  local queue = queue_of(id)
  if call('ZREM', LEASED .. queue, id .. ':' .. lease) == 1 then
    local status, target = unpack(call('HMGET', RECORD .. id, 'status', 'target'))
    -- Also return a task that has no record, so that the next lease ends it and counts it in its batch.
    make_ready(queue, id, target, 'LPUSH')
    if status then
      call('HSET', RECORD .. id, 'status', 'queued')
      call('HDEL', RECORD .. id, 'lease', 'started')
      if call('HEXISTS', RECORD .. id, 'failures') + call('HEXISTS', RECORD .. id, 'lost') == 0 then
        call('HDEL', RECORD .. id, 'first_try_at')
      end
      released = released + 1
    end
  end
end
return released
