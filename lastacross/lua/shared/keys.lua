-- keys: the names of KEYS, in the order of store.TASK_KEYS; what ends in a colon is a prefix.
local RECORD, READY, LEASED, SCHEDULED, DEFERRED, DEAD, SETTINGS, PAUSED, BUCKET, TOMBSTONE, WAKEUP, BATCH,
  OPEN_BATCHES, QUEUES, SUSPENDED = unpack(KEYS)

local call = redis.call

-- RQ's tools "clean" the registry of leased tasks by score, so ours lie a day ahead of the truth.
local LEASE_SHIFT = 86400

-- Lua's own tostring keeps 14 digits: an instant would lose its microseconds.
local function instant(seconds)
  return string.format('%.6f', seconds)
end

-- A task id is <queue>_<name>, and a queue's name has no underscore.
local function queue_of(id)
  return string.match(id, '^([^_]*)_')
end

-- Leave a marker for the workers that serve this queue, unless one waits there already.
-- 'scheduled' asks the one that takes it to look at the scheduled tasks as well.
local function wake(queue, reason)
  local list = WAKEUP .. (call('HGET', SETTINGS .. queue, 'group') or 'default')
  if call('EXISTS', list) == 0 then
    call('RPUSH', list, reason or 'ready')
  elseif reason == 'scheduled' then
    call('LSET', list, 0, reason)
  end
end

-- A place of the queue is free: somebody may wait for it.
local function wake_for_place(queue)
  local most = call('HGET', SETTINGS .. queue, 'max_concurrent')
  if most and most ~= '' and call('EXISTS', READY .. queue) == 1 then
    wake(queue)
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
