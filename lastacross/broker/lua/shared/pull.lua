-- pull: maintain the sets of a pull queue. Needs keys.
--
-- A task is in its queue's set and, if it has a tag, also in the tag's set. Its score there is its eta, which a
-- lease moves to the end of the lease. Members are names, so tasks with equal etas are ordered by name. A third
-- set contains the leased tasks, scored by the ends of their leases. A task whose lease has ended is free again.
-- include: dead_groups

local function name_of(id)
  return string.match(id, '^[^_]*_(.*)$')
end

-- The key of the set of a tag's tasks; nil if there is no tag.
local function tag_set(queue, tag)
  return tag and tag ~= '' and PULL_TAG .. queue .. ':' .. tag or nil
end

local function index_pull_task(queue, name, tag, eta)
  call('ZADD', PULL .. queue, eta, name)
  local set = tag_set(queue, tag)
  if set then
    call('ZADD', set, eta, name)
  end
end

-- Remove a task from every set. Returns whether it was in its queue's set.
local function remove_pull_task(queue, name, tag)
  call('ZREM', PULL_LEASED .. queue, name)
  local set = tag_set(queue, tag)
  if set then
    call('ZREM', set, name)
  end
  return call('ZREM', PULL .. queue, name) == 1
end

-- A push task's record may store its body in pieces (see record.py), but a pull lease reads only one field.
local MAX_PIECES = 8

local function join_body(id)
  local key = RECORD .. id
  local whole = {}
  for number = 1, MAX_PIECES - 1 do
    local piece = call('HGET', key, 'body.' .. number)
    if not piece then
      break
    end
    whole[#whole + 1] = piece
    call('HDEL', key, 'body.' .. number)
  end
  if #whole > 0 then
    call('HSET', key, 'body', call('HGET', key, 'body') .. table.concat(whole))
  end
end

-- Return a task to its pull queue. A dead letter gets all its leases back.
local function restore_pull_task(queue, id, tag, eta)
  eta = tonumber(eta) and eta or 0
  join_body(id)
  leave_dead_group(id)
  call('HSET', RECORD .. id, 'status', 'scheduled', 'eta', eta)
  call('HDEL', RECORD .. id, 'dead_at', 'error', 'leases', 'lease')
  call('PERSIST', RECORD .. id)
  call('ZREM', DEAD .. queue, id)
  index_pull_task(queue, name_of(id), tag, eta)
end

-- Remove the oldest tasks from every set. Returns their ids.
local function pop_pull_tasks(queue, limit)
  local ids = {}
  local entries = call('ZPOPMIN', PULL .. queue, limit)
  for position = 1, #entries, 2 do
    local id = queue .. '_' .. entries[position]
    remove_pull_task(queue, entries[position], call('HGET', RECORD .. id, 'tag'))
    ids[#ids + 1] = id
  end
  return ids
end
