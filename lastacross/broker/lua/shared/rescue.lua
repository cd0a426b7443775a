-- rescue: make tasks with expired leases ready again. Needs keys, fan_in and lose.

-- Returns a flat list with a task id and 'ready', 'poison', 'damaged' or 'gone' for each lease that was ended.
local function rescue_of_all(queues, now, limit)
  local results = {}
  for _, queue in ipairs(queues) do
    local leased, losses = LEASED .. queue, {}
    local entries = call('ZRANGEBYSCORE', leased, '-inf', instant(now + LEASE_SHIFT), 'LIMIT', 0, limit)
    for _, entry in ipairs(entries) do
      local _, lease = split_entry(entry)
      if lease == '' then
        call('ZREM', leased, entry)
      end
      losses[#losses + 1] = { queue = queue, entry = entry }
    end
    lose_all(losses, now, results)
  end
  return results
end
