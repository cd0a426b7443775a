-- server_time: the server's clock, and whether the caller's time agrees with it. Needs keys.

local function server_time()
  local seconds, microseconds = unpack(call('TIME'))
  return tonumber(seconds) + tonumber(microseconds) / 1e6
end

-- The caller's time is '<seconds>', or '<seconds>~<tolerance>' if it was computed from an earlier answer of this
-- server. If the server's clock differs by more, it was changed and the caller has not noticed yet, or the call was
-- delayed. In both cases, the leases of live workers may seem to have expired.
-- Returns the time and whether it agrees with the server's clock.
local function trusted_time(text)
  local seconds, tolerance = string.match(text, '^([^~]*)~?(.*)$')
  local now = tonumber(seconds)
  return now, tolerance == '' or math.abs(server_time() - now) <= tonumber(tolerance)
end
