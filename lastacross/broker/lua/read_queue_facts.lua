-- read_queue_facts: read the settings and current numbers of several queues.
--
-- ARGV: the current time, then at most 20 queues.
-- Returns whether RQ's tools have suspended all workers, then for each queue nine values: its settings (rate,
-- bucket_size, max_concurrent, is_disabled, mode, group, target, retry), whether it is paused, whether it is draining,
-- its bucket (tokens, counted_at), its lists of ready tasks with their lengths, the numbers of its leased, scheduled
-- and dead tasks, the etas of its oldest ready task and of its next scheduled task ('' for none), and the number of
-- attempts that ended in the last minute.
--
-- As in read_statistics, the search for the oldest ready task looks only at the front of each list.
-- include: keys

local FRONT = 3

local now = tonumber(ARGV[1])

-- The lists of all queues, grouped by queue. Reading them once per queue would take most of the script's time.
local lists_of = {}
for position = 2, #ARGV do
  lists_of[ARGV[position]] = { READY .. ARGV[position] }
end
for _, list in ipairs(call('SMEMBERS', QUEUES)) do
  local queue = string.sub(list, 1, #READY) == READY and string.match(string.sub(list, #READY + 1), '^([^.]*)%.')
  if queue and lists_of[queue] then
    table.insert(lists_of[queue], list)
  end
end

-- Run-now requests are not in their queue's lists, but in separate ones, which are short.
local MAX_RUN_NOW = 1000
local requests_of = {}
for _, group in ipairs(groups_of_all()) do
  for _, id in ipairs(call('LRANGE', RUN_NOW .. group, 0, MAX_RUN_NOW - 1)) do
    local queue = queue_of(id)
    if queue then
      requests_of[queue] = requests_of[queue] or {}
      table.insert(requests_of[queue], id)
    end
  end
end

local function oldest_of(ids, oldest)
  for _, id in ipairs(ids) do
    local eta = number_of(call('HGET', RECORD .. id, 'eta') or '')
    if eta and (not oldest or eta < oldest) then
      oldest = eta
    end
  end
  return oldest
end

local function executed_of(queue)
  local seconds = {}
  for second = math.floor(now) - 59, math.floor(now) do
    seconds[#seconds + 1] = EXECUTED .. queue .. ':' .. second
  end
  local executed = 0
  for _, number in ipairs(call('MGET', unpack(seconds))) do
    executed = executed + (number and number_of(number) or 0)
  end
  return executed
end

local function push_numbers(queue)
  local lists, oldest = {}, nil
  for _, list in ipairs(lists_of[queue]) do
    local length = call('LLEN', list)
    if length > 0 then
      lists[#lists + 1] = string.sub(list, #READY + 1)
      lists[#lists + 1] = length
      oldest = oldest_of(call('LRANGE', list, 0, FRONT - 1), oldest)
    end
  end
  local requests = requests_of[queue] or {}
  if #requests > 0 then
    lists[#lists + 1] = ''
    lists[#lists + 1] = #requests
    oldest = oldest_of({ requests[1] }, oldest)
  end
  local first = call('ZRANGE', SCHEDULED .. queue, 0, 0, 'WITHSCORES')
  return lists, call('ZCARD', LEASED .. queue), call('ZCARD', SCHEDULED .. queue), oldest, tonumber(first[2] or '')
end

local function pull_numbers(queue)
  local pull, leased = PULL .. queue, call('ZCOUNT', PULL_LEASED .. queue, '(' .. ARGV[1], '+inf')
  local ready = call('ZCOUNT', pull, '-inf', ARGV[1])
  local oldest = tonumber(call('ZRANGE', pull, 0, 0, 'WITHSCORES')[2] or '')
  -- A lease moves a task's eta to the lease's end, so the next eta may be that of a leased task.
  local next_due = tonumber(call('ZRANGEBYSCORE', pull, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or '')
  return ready > 0 and { queue, ready } or {}, leased, call('ZCARD', pull) - ready - leased,
    ready > 0 and oldest or nil, next_due
end

local results = { call('EXISTS', SUSPENDED) }
for position = 2, #ARGV do
  local queue = ARGV[position]
  local settings = call('HMGET', SETTINGS .. queue, 'rate', 'bucket_size', 'max_concurrent', 'is_disabled', 'mode',
    'group', 'target', 'retry')
  local numbers = settings[5] == 'pull' and pull_numbers or push_numbers
  local lists, leased, scheduled, oldest, next_due = numbers(queue)
  results[#results + 1] = { settings, call('SISMEMBER', PAUSED, queue), call('SISMEMBER', DRAINING, queue),
    call('HMGET', BUCKET .. queue, 'tokens', 'counted_at'), lists, { leased, scheduled, call('ZCOUNT', DEAD .. queue, '(' .. ARGV[1], '+inf') },
    oldest and instant(oldest) or '', next_due and instant(next_due) or '', executed_of(queue) }
end
return results
