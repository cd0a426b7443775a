-- renew_leases: extend a worker's leases until expires_at, and record which tasks have started.
--
-- ARGV: expires_at in seconds since the epoch, then for each task its id, its lease id, and 1 if it has
-- started.
-- Returns 1 for each task, or 0 if its lease was already lost.
-- include: keys

local score = instant(tonumber(ARGV[1]) + LEASE_SHIFT)
local results = {}
for position = 2, #ARGV, 3 do
  local id, lease, started = ARGV[position], ARGV[position + 1], ARGV[position + 2]
  local entry, leased = id .. ':' .. lease, LEASED .. queue_of(id)
  if call('ZSCORE', leased, entry) then
    call('ZADD', leased, 'XX', score, entry)
    if started == '1' and call('EXISTS', RECORD .. id) == 1 then
      call('HSET', RECORD .. id, 'started', lease)
    end
    results[#results + 1] = 1
  else
    results[#results + 1] = 0
  end
end
return results
