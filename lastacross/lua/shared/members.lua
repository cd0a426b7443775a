-- members: a batch's member and its record. Needs keys.

local function member_id(batch, queue, index)
  return call('HGET', BATCH .. batch .. ':names', index) or (queue .. '_' .. batch .. '-' .. index)
end

-- Whether a member has no record of ours. A record without eta holds only fields that RQ's own worker wrote after
-- the task had ended.
local function is_gone(batch, queue, index)
  local status, eta = unpack(call('HMGET', RECORD .. member_id(batch, queue, index), 'status', 'eta'))
  return not eta or status == 'canceled'
end
