-- record_metrics: add one process's counts of the last second to their minute and to the totals.
--
-- KEYS: the prefix of all metrics.
-- ARGV: the current minute in minutes since the epoch, and how many minutes to keep it. Then come at most 100 names,
-- each as its kind, its name, the maximum number of names of its kind, the number of strings that follow, and pairs
-- of an index and a number to add.
-- Returns how many names were counted under 'other', because their kind already had its maximum number of names.
--
-- Each hour of data for a name is one hash, so that Redis keeps it as a listpack: field <minute> has the outcomes and
-- running times, and field w<minute> the waiting times. Each stays below 64 bytes unless the times differ widely.
-- include: call

local minute, kept_minutes = tonumber(ARGV[1]), tonumber(ARGV[2])
local hour, minute_of_hour = math.floor(minute / 60), minute % 60
local FIRST_WAITING_INDEX = 64
local OTHER = 'other'

local function add_to(key, field, deltas)
  local packed = call('HGET', key, field)
  local is_readable, flat = pcall(cmsgpack.unpack, packed or '\144')
  if not is_readable or type_of(flat) ~= 'table' then
    flat = {}
  end
  local position_of = {}
  for position = 1, #flat - 1, 2 do
    if type_of(flat[position]) ~= 'number' or type_of(flat[position + 1]) ~= 'number' then
      flat, position_of = {}, {}
      break
    end
    position_of[flat[position]] = position
  end
  for index, number in pairs(deltas) do
    local position = position_of[index]
    if position then
      flat[position + 1] = flat[position + 1] + number
    else
      flat[#flat + 1] = index
      flat[#flat + 1] = number
    end
  end
  call('HSET', key, field, cmsgpack.pack(flat))
end

-- Return the name under which to count. A name that is no longer in use makes room for a new one.
local others = 0
local function counted_name(kind, name, limit)
  local names = KEYS[1] .. 'names:' .. kind
  if name ~= OTHER and not call('ZSCORE', names, name) and call('ZCARD', names) >= limit then
    local oldest, last_minute = unpack(call('ZRANGE', names, 0, 0, 'WITHSCORES'))
    if tonumber(last_minute) > minute - kept_minutes then
      others = others + 1
      name = OTHER
    else
      call('ZREM', names, oldest)
      call('HDEL', KEYS[1] .. 'total:' .. kind, oldest)
    end
  end
  if name ~= OTHER then
    call('ZADD', names, minute, name)
  end
  return name
end

local position = 3
while position <= #ARGV do
  local kind, length = ARGV[position], tonumber(ARGV[position + 3])
  local name = counted_name(kind, ARGV[position + 1], tonumber(ARGV[position + 2]))
  local all, running, waiting = {}, {}, {}
  for at = position + 4, position + 3 + length, 2 do
    local index, number = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    all[index] = number
    if index < FIRST_WAITING_INDEX then
      running[index] = number
    else
      waiting[index] = number
    end
  end
  local key = KEYS[1] .. kind .. ':' .. string.format('%d', hour) .. ':' .. name
  if next(running) then
    add_to(key, tostring(minute_of_hour), running)
  end
  if next(waiting) then
    add_to(key, 'w' .. minute_of_hour, waiting)
  end
  call('EXPIRE', key, (kept_minutes + 60) * 60)
  add_to(KEYS[1] .. 'total:' .. kind, name, all)
  -- A page that shows one day for every name reads these fields instead of each minute of each name.
  local of_hour = KEYS[1] .. 'hours:' .. kind .. ':' .. string.format('%d', hour)
  add_to(of_hour, name, all)
  call('EXPIRE', of_hour, (kept_minutes + 60) * 60)
  position = position + 4 + length
end
return others
