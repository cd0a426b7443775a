-- read_statistics: read the current statistics of queues.
--
-- ARGV: the current time and the queues.
-- Returns six values for each queue: the number of ready, scheduled and leased tasks, the number of leased tasks, the eta of
-- the oldest task or '', the number of attempts that ended in the last minute, the rate enforced now ('' for an
-- unknown queue), and the queue's mode.
--
-- The search for the oldest ready task looks only at the front of the list, because all tasks except rescued
-- ones become ready in the order of their etas.
-- include: keys

local FRONT = 10

local now = tonumber(ARGV[1])
local seconds = {}
for second = math.floor(now) - 59, math.floor(now) do
  seconds[#seconds + 1] = second
end

-- Returns the smaller of this eta and those of the tasks.
local function older(oldest, ids)
  for _, id in ipairs(ids) do
    local eta = tonumber(call('HGET', RECORD .. string.match(id, '^[^:]*'), 'eta'))
    if eta and number_of(math.abs(eta)) and (not oldest or eta < oldest) then
      oldest = eta
    end
  end
  return oldest
end

local run_now = {}
for _, group in ipairs(groups_of_all()) do
  for _, id in ipairs(call('LRANGE', RUN_NOW .. group, 0, -1)) do
    run_now[#run_now + 1] = id
  end
end

local function statistics_of(queue)
  local tasks, oldest = 0, nil
  for _, list in ipairs(ready_lists_of(queue)) do
    tasks = tasks + call('LLEN', list)
    oldest = older(oldest, call('LRANGE', list, 0, FRONT - 1))
  end
  local leased = call('ZCARD', LEASED .. queue)
  oldest = older(oldest, call('ZRANGE', LEASED .. queue, 0, FRONT - 1))
  oldest = older(oldest, call('ZRANGE', SCHEDULED .. queue, 0, 0))
  tasks = tasks + leased + call('ZCARD', SCHEDULED .. queue)

  -- The oldest task of a pull queue.
  local first = call('ZRANGE', PULL .. queue, 0, 0)[1]
  if first then
    oldest = older(oldest, { queue .. '_' .. first })
    tasks = tasks + call('ZCARD', PULL .. queue)
    leased = leased + call('ZCOUNT', PULL_LEASED .. queue, '(' .. ARGV[1], '+inf')
  end

  -- Include the run-now requests that no worker has taken yet.
  for _, id in ipairs(run_now) do
    if queue_of(id) == queue then
      tasks = tasks + 1
      oldest = older(oldest, { id })
    end
  end

  local counts = {}
  for _, second in ipairs(seconds) do
    counts[#counts + 1] = EXECUTED .. queue .. ':' .. second
  end
  local executed = 0
  for _, number in ipairs(call('MGET', unpack(counts))) do
    executed = executed + (number_of(number) or 0)
  end

  local rate, is_disabled, mode = unpack(call('HMGET', SETTINGS .. queue, 'rate', 'is_disabled', 'mode'))
  rate = number_of(rate) and rate
  if rate and (is_disabled == '1' or call('SISMEMBER', PAUSED, queue) == 1 or call('EXISTS', SUSPENDED) == 1) then
    rate = '0'
  end
  return { tasks, leased, oldest and instant(oldest) or '', executed, rate or '', mode or '' }
end

local found = {}
for position = 2, #ARGV do
  found[#found + 1] = statistics_of(ARGV[position])
end
return found
