-- seal_batch: close a batch to new members, so that it completes when its last member has ended.
--
-- ARGV: the current time and the batch id.
-- Returns the number of members, or -1 if the batch does not exist.
-- States   fire: waiting → ready, gone
-- include: keys
-- include: fan_in

local batch = ARGV[2]
local key = BATCH .. batch
if call('EXISTS', key) == 0 then
  return -1
end
if call('HSET', key, 'sealed', 1) == 0 and not call('HGET', key, 'sealed_at') then
  call('HSET', key, 'sealed_at', ARGV[1])
end
complete_upwards(batch, tonumber(ARGV[1]))
return number_of(call('HGET', key, 'total')) or 0
