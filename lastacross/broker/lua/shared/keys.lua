-- keys: functions that all of the broker's scripts share, except the shortest one.
-- include: call
-- include: arrival

-- RQ's tools "clean" the registry of leased tasks by score, so our scores are a day after the leases end.
local LEASE_SHIFT = 86400

-- Parse a number from a record or a setting. Returns nil if it is invalid, negative or too large.
local function number_of(text)
  local number = tonumber(text)
  -- tonumber stops reading a string at its first NUL.
  if number and number >= 0 and number < 1e15 and not string.find(text, '%z') then
    return number
  end
end

-- Format a time with its microseconds, which would be lost in Lua's own tostring because it keeps only 14 digits.
local function instant(seconds)
  return string.format('%.6f', seconds)
end

-- Find the queue in a task id. The id is <queue>_<name>, and a queue's name has no underscore.
local function queue_of(id)
  return string.match(id, '^([^_]*)_')
end

-- Find the group that serves a target `[version.]service`: the service's own group, or the default group if the
-- service is unknown.
local function group_of(target)
  local service = string.match(target, '[^.!]*$')
  return call('SISMEMBER', SERVICES, service) == 1 and service or 'default'
end

-- Returns the list where a queue's ready task belongs, and the group that serves this list.
-- `target` is the record's field. If dispatch.yaml set it, it is '!service' and overrides the queue's target.
local function ready_list_of(queue, target)
  local own, fixed, mode = unpack(call('HMGET', SETTINGS .. queue, 'group', 'target', 'mode'))
  own = own or 'default'
  -- Tasks that were added before the queue became a pull queue belong in its own list, the only one clients read.
  if not target or mode == 'pull' or (fixed and fixed ~= '' and string.sub(target, 1, 1) ~= '!') then
    return READY .. queue, own
  end
  local group = group_of(target)
  if group == own then
    return READY .. queue, own
  end
  return READY .. queue .. '.' .. group, group
end

-- List all groups that tasks may wait for.
local function groups_of_all()
  local groups = call('SMEMBERS', SERVICES)
  groups[#groups + 1] = 'default'
  return groups
end

-- Find all lists with ready tasks of this queue, including the lists of services that no longer exist.
local function ready_lists_of(queue)
  local own = READY .. queue
  local lists = { own }
  for _, list in ipairs(call('SMEMBERS', QUEUES)) do
    if string.sub(list, 1, #own + 1) == own .. '.' then
      lists[#lists + 1] = list
    end
  end
  return lists
end

-- Wake the workers that may be waiting for a concurrency slot of this queue, because one has become free.
local function wake_for_slot(queue)
  local max_concurrent, group = unpack(call('HMGET', SETTINGS .. queue, 'max_concurrent', 'group'))
  if not max_concurrent or max_concurrent == '' then
    return
  end
  if call('EXISTS', READY .. queue) == 1 then
    wake_group(group or 'default')
  end
  for _, other in ipairs(groups_of_all()) do
    if call('EXISTS', READY .. queue .. '.' .. other) == 1 then
      wake_group(other)
    end
  end
end

-- Make a group check for due tasks again, because a task was scheduled.
local function wake_for_scheduled(queue, target)
  local _, group = ready_list_of(queue, target)
  call('SADD', QUEUES, READY .. queue)
  wake_group(group, 'scheduled')
end

-- To schedule many tasks, schedule each one first and then wake all groups involved.
local scheduled = {}

local function schedule(queue, id, eta, target)
  call('ZADD', SCHEDULED .. queue, eta, id)
  scheduled[target and queue .. '.' .. target or queue] = { queue, target }
end

local function wake_for_all_scheduled()
  for _, found in pairs(scheduled) do
    wake_for_scheduled(found[1], found[2])
  end
end

-- Append one task to its list (or prepend it with 'LPUSH'), and wake its group.
local function make_ready(queue, id, target, command)
  local list, group = ready_list_of(queue, target)
  push_ready(list, group, id, command)
end

-- Searching a longer list would block Redis. The entry stays there, and the lease that finds it sees that the
-- task has no record or has moved.
local MAX_SEARCH_LENGTH = 10000

local function take_off(list, id)
  if call('LLEN', list) <= MAX_SEARCH_LENGTH then
    call('LREM', list, 0, id)
  end
end

-- Remove a ready task from every list. RQ's own `requeue` and a new upload can leave it in a list other than its own.
local function take_off_all_lists(queue, id)
  for _, list in ipairs(ready_lists_of(queue)) do
    take_off(list, id)
  end
  for _, group in ipairs(groups_of_all()) do
    call('LREM', RUN_NOW .. group, 0, id)
  end
end

-- To make many tasks ready, `arrive` collects them by list and `make_arrivals_ready` pushes each list with one call.
local arrivals, arrivals_in_order = {}, {}

local function arrive(queue, id, target)
  local key = target and queue .. '.' .. target or queue
  local found = arrivals[key]
  if not found then
    found = { queue = queue, target = target, ids = {} }
    arrivals[key] = found
    arrivals_in_order[#arrivals_in_order + 1] = found
  end
  found.ids[#found.ids + 1] = id
end

local function make_arrivals_ready()
  for _, found in ipairs(arrivals_in_order) do
    local list, group = ready_list_of(found.queue, found.target)
    if call('RPUSH', list, unpack(found.ids)) == #found.ids then
      call('SADD', QUEUES, list)
    end
    wake_group(group)
  end
end

-- Count finished attempts per second for the queue's statistics.
local EXECUTED_SECONDS = 90

local function count_executed(queue, number, now)
  local key = EXECUTED .. queue .. ':' .. math.floor(now)
  if try('INCRBY', key, number) == number then
    call('EXPIRE', key, EXECUTED_SECONDS)
  end
end

-- Delete a task's record and its history. A dead letter must leave its group first.
local function delete_record(id)
  call('DEL', RECORD .. id, HISTORY .. id)
end

-- Convert a reply of HGETALL to a table.
local function pairs_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end
