-- dead_letter_task: after a task's last attempt, keep it for inspection and mark it as failed in its batch.
--
-- ARGV: the current time, the task's id, its lease id, the attempt's HTTP status or '', and the reason as text.
-- Then, if they are known: the attempt as JSON for the task's history, and the handler's name.
-- Returns 1, or 0 if the lease was already lost.
-- States   dead-letter: leased → dead, gone
-- include: keys
-- include: fan_in
-- include: lose

local now, id, lease = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local queue = queue_of(id)
if call('ZREM', LEASED .. queue, id .. ':' .. lease) == 0 then
  return 0
end
count_executed(queue, 1, now)
wake_for_slot(queue)
local fields = pairs_of(call('HGETALL', RECORD .. id))
if dead_letter_if_damaged(id, queue, fields.status, now) then
  return 1
elseif not fields.status then
  finish_lost_record(id, now)
  return 1
end
-- If the number is unreadable, leave it unchanged for inspection.
try('HINCRBY', RECORD .. id, 'failures', 1)
call('HDEL', RECORD .. id, 'lease', 'started', 'crashes', 'suspect')
if ARGV[4] ~= '' then
  call('HSET', RECORD .. id, 'previous_response', ARGV[4])
end
if ARGV[6] then
  note_attempt(id, ARGV[6], fields.history, HISTORY_SECONDS)
end
if ARGV[7] and ARGV[7] ~= '' then
  call('HSET', RECORD .. id, 'handler', ARGV[7])
end
make_dead_letter(id, queue, fields, now, ARGV[5])
return 1
