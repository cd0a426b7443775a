-- members: find the record of a batch's member. Needs keys.

local function member_id(batch, queue, index)
  return call('HGET', BATCH .. batch .. ':names', index) or (queue .. '_' .. batch .. '-' .. index)
end

-- Whether a member's record no longer exists. A record without eta and data does not count, because RQ's own worker
-- wrote it after the task had ended. A record of the wrong type does count, because it becomes a dead letter.
local function is_gone(batch, queue, index)
  local id = member_id(batch, queue, index)
  local status, eta, data = unpack(call('HMGET', RECORD .. id, 'status', 'eta', 'data'))
  return status == 'canceled' or not (eta or data or call('EXISTS', ASIDE .. RECORD .. id) == 1)
end
