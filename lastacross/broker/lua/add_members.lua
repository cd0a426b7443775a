-- add_members: add tasks to an open batch, except members whose bits show that they were already added.
--
-- ARGV: the current time, the batch id, the index of the first member, then for each member its id, its eta (''
-- if it is ready now), its target as in add_tasks, 1 if the caller named it, the number of strings that follow,
-- and then those strings: its record's fields and values.
-- Returns, for each member, 0 if it was added, 1 if it had already been added, 2 if the batch is cancelled, 10 if a
-- task with this name exists, or 11 if the name is tombstoned. Returns -1 if the batch does not exist, or -2 if it is
-- sealed.
-- States   add: new → ready, scheduled
--
-- One script writes the bit and the task together, so filling a batch can safely be repeated.
-- include: keys
-- include: dead_groups

local now, batch, index = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local key = BATCH .. batch
local sealed, cancelled_at = unpack(call('HMGET', key, 'sealed', 'cancelled_at'))
if not sealed then
  return -1
end
local results = {}
local added = 0

local function store(id, eta, target, first, last)
  local queue = queue_of(id)
  local waits = eta ~= '' and tonumber(eta) > now
  sure_call('HSET', RECORD .. id, 'status', waits and 'scheduled' or 'queued', unpack(ARGV, first, last))
  if waits then
    schedule(queue, id, eta, target ~= '' and target or nil)
  else
    arrive(queue, id, target ~= '' and target or nil)
  end
end

-- Refuse a name that a task outside this batch has or had. Even a generated name may be taken, because a caller
-- may have chosen the same name.
local function refusal(id, is_named)
  local status, dead_at = unpack(call('HMGET', RECORD .. id, 'status', 'dead_at'))
  if status and not (status == 'failed' and dead_at) then
    -- A task that failed but has no dead_at was taken by a stock worker. A sweep will restore it.
    return 10
  elseif is_named and call('EXISTS', TOMBSTONE .. id) == 1 then
    return 11
  elseif status then
    -- The dead letter has outlived its tombstone, so the name is free again.
    leave_dead_group(id)
    delete_record(id)
    call('ZREM', DEAD .. queue_of(id), id)
  end
end

local position = 4
while position <= #ARGV do
  local id, eta, target, is_named = ARGV[position], ARGV[position + 1], ARGV[position + 2], ARGV[position + 3] == '1'
  local first, last = position + 5, position + 4 + tonumber(ARGV[position + 4])
  position = last + 1
  local result
  if call('GETBIT', key .. ':added', index) == 1 then
    result = 1
  elseif sealed == '1' and not cancelled_at then
    return -2
  else
    result = refusal(id, is_named) or (cancelled_at and 2) or 0
    if result == 0 or result == 2 then
      sure_call('SETBIT', key .. ':added', index, 1)
      added = added + 1
    end
    if result == 0 then
      store(id, eta, target, first, last)
      if is_named then
        call('HSET', key .. ':names', index, id)
      end
    elseif result == 2 then
      call('SETBIT', key .. ':finished', index, 1)
      try('HINCRBY', key, 'cancelled', 1)
    end
  end
  results[#results + 1] = result
  index = index + 1
end
if added > 0 then
  -- sweep_batches repairs a damaged count.
  try('HINCRBY', key, 'total', added)
  call('HSET', key, 'added_at', ARGV[1])
end
make_arrivals_ready()
wake_for_all_scheduled()
return results
