-- keys: shared by all of the broker's scripts except the shortest one.
-- include: call
-- include: arrival

-- RQ's tools "clean" the registry of leased tasks by score, so our scores are a day later than the lease's end.
local LEASE_SHIFT = 86400

-- A number from a record or a setting, 0 or more; nil if it is invalid or too large.
local function number_of(text)
  local number = tonumber(text)
  -- tonumber stops reading a text at its first NUL.
  if number and number >= 0 and number < 1e15 and not string.find(text, '%z') then
    return number
  end
end

-- Lua's own tostring keeps 14 digits, so a time would lose its microseconds.
local function instant(seconds)
  return string.format('%.6f', seconds)
end

-- A task id is <queue>_<name>, and a queue's name has no underscore.
local function queue_of(id)
  return string.match(id, '^([^_]*)_')
end

-- The group that serves a target `[version.]service`: its own, or the default one if it is unknown.
local function group_of(target)
  local service = string.match(target, '[^.!]*$')
  return call('SISMEMBER', SERVICES, service) == 1 and service or 'default'
end

-- Returns the list where a queue's ready task belongs, and the group that serves this list.
-- `target` is the record's field. It is '!service' if dispatch.yaml set it; then it overrides the queue's target.
local function ready_list_of(queue, target)
  local own, fixed, mode = unpack(call('HMGET', SETTINGS .. queue, 'group', 'target', 'mode'))
  own = own or 'default'
  -- Clients of a pull queue read only its own list for tasks that were added before it became one.
  if not target or mode == 'pull' or (fixed and fixed ~= '' and string.sub(target, 1, 1) ~= '!') then
    return READY .. queue, own
  end
  local group = group_of(target)
  if group == own then
    return READY .. queue, own
  end
  return READY .. queue .. '.' .. group, group
end

-- Every group that tasks may wait for.
local function groups_of_all()
  local groups = call('SMEMBERS', SERVICES)
  groups[#groups + 1] = 'default'
  return groups
end

-- Every list with ready tasks of this queue, including lists of services that no longer exist.
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

-- One of the queue's concurrency slots is free: wake the workers that may wait for it.
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

-- A task was scheduled: make its group check for due tasks again.
local function wake_for_scheduled(queue, target)
  local _, group = ready_list_of(queue, target)
  call('SADD', QUEUES, READY .. queue)
  wake_group(group, 'scheduled')
end

-- For many tasks: schedule each one, then wake every group involved.
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

-- Searching a longer list would block Redis. The entry stays, and the lease that meets it finds no record, or
-- finds the task elsewhere.
local MAX_SEARCH_LENGTH = 10000

local function take_off(list, id)
  if call('LLEN', list) <= MAX_SEARCH_LENGTH then
    call('LREM', list, 0, id)
  end
end

-- For many tasks: `arrive` collects them by list, and `make_arrivals_ready` pushes them with one call per list.
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

-- Count ended attempts by the second for the queue's statistics.
local EXECUTED_SECONDS = 90

local function count_executed(queue, number, now)
  local key = EXECUTED .. queue .. ':' .. math.floor(now)
  if try('INCRBY', key, number) == number then
    call('EXPIRE', key, EXECUTED_SECONDS)
  end
end

-- The reply of HGETALL as a table.
local function pairs_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end
