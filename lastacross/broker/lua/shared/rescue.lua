-- rescue: make tasks with expired leases ready again. Needs keys, fan_in and lose.

-- The caller's time is '<seconds>', or '<seconds>~<tolerance>' if it was computed from an earlier answer of this
-- server. If the server's clock differs by more, it was set and the caller has not noticed it yet, or the call was
-- delayed. In both cases leases of living workers may seem to have expired.
-- Returns the time and whether leases may be ended.
local function trusted_time(text)
  local seconds, tolerance = string.match(text, '^([^~]*)~?(.*)$')
  local now = tonumber(seconds)
  if tolerance == '' then
    return now, true
  end
  local whole, microseconds = unpack(call('TIME'))
  return now, math.abs(tonumber(whole) + tonumber(microseconds) / 1e6 - now) <= tonumber(tolerance)
end

-- A dead machine may have held more tasks than one call moves. The entries are sorted beyond the limit, so that the next
-- call's tasks come before this one's.
local SORTED_PER_MOVED = 10

-- Returns a flat list with a task id and 'ready', 'poison', 'damaged' or 'gone' for each lease that was ended.
local function rescue_of_all(queues, now, limit)
  local results, until_now = {}, instant(now + LEASE_SHIFT)
  for _, queue in ipairs(queues) do
    local losses = {}
    local most = SORTED_PER_MOVED * limit
    for _, entry in ipairs(call('ZREVRANGEBYSCORE', LEASED .. queue, until_now, '-inf', 'LIMIT', 0, most)) do
      losses[#losses + 1] = { queue = queue, entry = entry }
    end
    lose_all(losses, now, results, false, tonumber(limit))
  end
  return results
end
