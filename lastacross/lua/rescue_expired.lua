-- rescue_expired: tasks whose lease ran out go back to ready; their worker died or stalled.
--
-- ARGV     1 now  2 the most to move of one queue  3… queues
-- Returns  flat: task id, 'ready' | 'poison' | 'gone', for each lease that was ended
-- include: keys
-- include: fan_in
-- include: lose

local now = tonumber(ARGV[1])
local results = {}
for position = 3, #ARGV do
  local queue = ARGV[position]
  local leased = LEASED .. queue
  local entries = call('ZRANGEBYSCORE', leased, '-inf', instant(now + LEASE_SHIFT), 'LIMIT', 0, ARGV[2])
  for _, entry in ipairs(entries) do
    local id, lease = string.match(entry, '^([^:]*):?(.*)$')
    if lease == '' then
      call('ZREM', leased, entry)
    end
    results[#results + 1] = id
    results[#results + 1] = lose(id, queue, lease, nil, now)
  end
end
return results
