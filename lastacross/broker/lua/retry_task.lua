-- retry_task: schedule a failed task for its next attempt, unless its batch is cancelled.
--
-- ARGV: the task's id, its lease id, the eta of its next attempt, this attempt's HTTP status or '', the current
-- time, 1 if the attempt reached the application, 1 if the next attempt must also run alone, the attempt as JSON for
-- the task's history or '', and the span of this delivery as a traceparent or ''.
-- Returns 1, or 0 if the lease was already lost.
-- States   retry: leased → scheduled, gone
-- include: keys
-- include: fan_in
-- include: lose

-- A person should look at a task that has failed this often. Readers drop the tasks that have since ended.
local FAILING_ATTEMPTS, MAX_FAILING = 10, 1000

local id, lease, eta, now = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local queue, key = queue_of(id), RECORD .. id
if call('ZREM', LEASED .. queue, id .. ':' .. lease) == 0 then
  return 0
end
count_executed(queue, 1, now)
wake_for_slot(queue)
local status, member, tombstone, request, target, history = unpack(
  call('HMGET', key, 'status', 'batch', 'tombstone', 'request', 'target', 'history'))
if dead_letter_if_damaged(id, queue, status, now) then
  return 1
elseif not status then
  finish_lost_record(id, now)
  return 1
end
if drop_if_cancelled(id, member, now) then
  leave_tombstone(id, tombstone, request)
  return 1
end
if not increase(id, queue, 'failures', now) or (ARGV[6] ~= '1' and not increase(id, queue, 'unreached', now)) then
  return 1
end
if tonumber(call('HGET', key, 'failures')) >= FAILING_ATTEMPTS then
  call('ZADD', FAILING, now, id)
  call('ZREMRANGEBYRANK', FAILING, 0, -MAX_FAILING - 1)
end
call('HSET', key, 'status', 'scheduled', 'eta', eta)
-- The worker survived this attempt, so earlier crashes no longer count against the task.
call('HDEL', key, 'lease', 'started', 'crashes')
if ARGV[7] ~= '1' then
  call('HDEL', key, 'suspect')
end
if ARGV[4] ~= '' then
  call('HSET', key, 'previous_response', ARGV[4])
end
if (ARGV[8] or '') ~= '' then
  note_attempt(id, ARGV[8], history, HISTORY_SECONDS + tonumber(eta) - now)
end
if (ARGV[9] or '') ~= '' then
  call('HSET', key, 'attempt_trace', ARGV[9])
end
call('ZADD', SCHEDULED .. queue, eta, id)
wake_for_scheduled(queue, target)
return 1
