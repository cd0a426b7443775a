-- modify_pull_lease: make a pull task's lease end some seconds from now; 0 returns the task immediately.
--
-- ARGV: the current time, the queue, the task's name, the eta known to the caller, the length of the lease in
-- seconds, and the request.
-- Returns 'ok', 'paused', 'expired', 'tombstoned' or 'unknown', and the new eta or ''.
-- States   modify: leased → leased, ready
--
-- Everything is in one script, because otherwise the lease could expire after the check and another client could
-- take the task.
-- A client that loses the reply retries the call, and the request's id shows that the step was already done.
-- include: keys
-- include: pull

local now, queue, name, request = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[6]
local id = queue .. '_' .. name
local new_eta = instant(now + tonumber(ARGV[5]))
local eta, tag, lease = unpack(call('HMGET', RECORD .. id, 'eta', 'tag', 'lease'))
if call('SISMEMBER', PAUSED, queue) == 1 then
  return { 'paused', '' }
elseif not call('ZSCORE', PULL .. queue, name) then
  local has_been = eta or call('EXISTS', TOMBSTONE .. id) == 1
  return { has_been and 'tombstoned' or 'unknown', '' }
elseif lease == request then
  return { 'ok', eta }
elseif not eta or eta ~= ARGV[4] or tonumber(eta) < now then
  return { 'expired', '' }
end
call('HSET', RECORD .. id, 'eta', new_eta, 'lease', request)
index_pull_task(queue, name, tag, new_eta)
call('ZADD', PULL_LEASED .. queue, 'XX', new_eta, name)
return { 'ok', new_eta }
