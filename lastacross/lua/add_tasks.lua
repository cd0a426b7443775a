-- add_tasks: store new tasks, each ready or scheduled, unless its name is used.
--
-- KEYS     as in shared/keys
-- ARGV     1 now  then for each task: task id, eta ('' = ready now), target ('' = none, else the record's
--          field of that name), number of strings n, n strings: the record's fields and values
-- Returns  for each task 0 added, 10 a task of this name exists, 11 its name is tombstoned
--          (App Engine's codes).
--
-- One script: between the look at the name and the write another caller could have taken it.
-- A client repeats a call whose answer was lost: the record's field `request` tells its own task, which
-- it has added, from another's.
-- include: keys

local now = tonumber(ARGV[1])
local results = {}
local position = 2

local function is_request(value, first, last)
  for place = first, last, 2 do
    if ARGV[place] == 'request' then
      return ARGV[place + 1] == value
    end
  end
  return false
end

while position <= #ARGV do
  local id, eta, target = ARGV[position], ARGV[position + 1], ARGV[position + 2]
  local first, last = position + 4, position + 3 + tonumber(ARGV[position + 3])
  position = last + 1
  local key, queue = RECORD .. id, queue_of(id)
  local status, request, dead_at = unpack(call('HMGET', key, 'status', 'request', 'dead_at'))
  local tombstone = call('GET', TOMBSTONE .. id)
  if status and not (status == 'failed' and dead_at) then
    -- Failed without dead_at: a stock worker had it, and it will be put back.
    results[#results + 1] = request and is_request(request, first, last) and 0 or 10
  elseif tombstone then
    results[#results + 1] = is_request(tombstone, first, last) and 0 or 11
  else
    if status then
      -- A dead letter older than its tombstone: the name is free again.
      call('DEL', key)
      call('ZREM', DEAD .. queue, id)
    end
    local waits = eta ~= '' and tonumber(eta) > now
    call('HSET', key, 'status', waits and 'scheduled' or 'queued', unpack(ARGV, first, last))
    if waits then
      schedule(queue, id, eta, target ~= '' and target or nil)
    else
      arrive(queue, id, target ~= '' and target or nil)
    end
    results[#results + 1] = 0
  end
end
make_arrivals_ready()
wake_for_all_scheduled()
return results
