-- ack_tasks: these tasks are done: delete them, and set their bits in their batches.
--
-- KEYS     as in shared/keys
-- ARGV     1 now  then for each task: task id, lease id
-- Returns  for each task 1, or 0 when its lease was lost before
--
-- One script: the fan-in bit is set in the step that ends the task, or a crash between the two
-- would leave a batch waiting for ever.
-- include: keys
-- include: fan_in
-- include: lose

local now = tonumber(ARGV[1])
local results, batches, queues = {}, {}, {}
for position = 2, #ARGV, 2 do
  local id, lease = ARGV[position], ARGV[position + 1]
  local queue = queue_of(id)
  local held = call('ZREM', LEASED .. queue, id .. ':' .. lease)
  results[#results + 1] = held
  if held == 1 then
    queues[queue] = (queues[queue] or 0) + 1
    local tombstone, member, request = unpack(call('HMGET', RECORD .. id, 'tombstone', 'batch', 'request'))
    if call('DEL', RECORD .. id) == 0 then
      settle_lost_record(id, now)
    end
    leave_tombstone(id, tombstone, request)
    local batch = member and mark_member(member, 'done')
    if batch then
      batches[batch] = true
    end
  end
end
for batch in pairs(batches) do
  complete_upwards(batch, now)
end
for queue, number in pairs(queues) do
  count_executed(queue, number, now)
  wake_for_place(queue)
end
return results
