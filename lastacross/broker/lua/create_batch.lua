-- create_batch: open a batch and store its completion tasks, unless an earlier attempt has already opened it.
--
-- ARGV: the current time, the batch id, the members' queue, and the parent's member '<batch id>:<index>' or ''.
-- Then for on_complete and for on_success: the task's id or '', the number of strings that follow, and then
-- those strings.
-- Returns 1 if the batch was opened, 0 if it exists, -1 if the parent has ended or its batch does not exist, or
-- -2 if another task has the name of on_complete or on_success.
-- States   wait: new → waiting
-- include: keys
-- include: fan_in
-- include: members

-- The lists of batches and of a batch's children are only for people to read, so they may be incomplete.
local MAX_KNOWN = 1000
local MAX_CHILDREN = 1000

-- Record a child batch for the tree of batches. The child stores its parent as well.
local function note_child(parents_key, index, child)
  local children = parents_key .. ':batches'
  if call('ZCARD', children) < MAX_CHILDREN then
    call('ZADD', children, index, child)
  end
  call('EXPIRE', children, 2 * BATCH_LIFE)
end

local now, batch, queue, parent = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = BATCH .. batch
if call('EXISTS', key) == 1 then
  return 0
end
local completions, position = {}, 5
for _, name in ipairs({ 'on_complete', 'on_success' }) do
  local id, size = ARGV[position], tonumber(ARGV[position + 1])
  if id ~= '' then
    if call('EXISTS', RECORD .. id) == 1 then
      return -2
    end
    completions[#completions + 1] = { name, id, position + 2, position + 1 + size }
  end
  position = position + 2 + size
end
if parent ~= '' then
  local parents_batch, index = split_member(parent)
  local parents_key = parents_batch and BATCH .. parents_batch
  local parents_queue, finished_at
  if parents_key then
    parents_queue, finished_at = unpack(call('HMGET', parents_key, 'queue', 'finished_at'))
  end
  -- This late request comes from a process that has lost its task, so nobody would ever fill the batch.
  if not parents_queue or is_gone(parents_batch, parents_queue, index) then
    return -1
  end
  if type_of(try('HINCRBY', parents_key .. ':children', index, 1)) ~= 'number' then
    call('HSET', parents_key .. ':children', index, 1)
  end
  if finished_at then
    -- The parent is a dead letter that is running again, so the keys of its batch already have an expiry time.
    call('EXPIRE', parents_key .. ':children', BATCH_LIFE)
  end
  call('HSET', key, 'parent', parent)
  note_child(parents_key, index, batch)
end
call('HSET', key, 'total', 0, 'done', 0, 'failed', 0, 'cancelled', 0, 'sealed', 0, 'created_at', now, 'queue', queue)
call('ZADD', OPEN_BATCHES, now, batch)
call('ZADD', KNOWN_BATCHES, now, batch)
call('ZREMRANGEBYRANK', KNOWN_BATCHES, 0, -1 - MAX_KNOWN)
for _, completion in ipairs(completions) do
  local name, id, first, last = unpack(completion)
  call('HSET', RECORD .. id, 'status', 'deferred', unpack(ARGV, first, last))
  call('ZADD', DEFERRED .. queue_of(id), now, id)
  call('HSET', key, name, id)
end
return 1
