-- rescue: make tasks with expired leases ready again. Needs keys, fan_in, lose and server_time.

-- A dead machine may have held more tasks than one call moves. Each call sorts this many times its limit and moves
-- the tasks that are to run last, because the next call puts its tasks in front of them.
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
