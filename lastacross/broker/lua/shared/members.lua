-- members: a batch's member and its record. Needs keys.

local function member_id(batch, queue, index)
  return call('HGET', BATCH .. batch .. ':names', index) or (queue .. '_' .. batch .. '-' .. index)
end

-- Whether a member has no record of ours. A record without eta and data has only fields that RQ's own worker
-- wrote after the task had ended. A record of the wrong type becomes a dead letter.
local function is_gone(batch, queue, index)
  local id = member_id(batch, queue, index)
  local status, eta, data = unpack(call('HMGET', RECORD .. id, 'status', 'eta', 'data'))
  return status == 'canceled' or not (eta or data or call('EXISTS', ASIDE .. RECORD .. id) == 1)
end
