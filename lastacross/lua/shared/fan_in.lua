-- fan_in: the bit of a batch's member, the counts, and the one completion. Needs keys.
--
-- A member is '<batch id>:<index>'. Its bit is set once, whatever runs twice: fan-in never counts
-- deliveries. A member whose own batches (children) are open waits for the last of them.

local BATCH_LIFE = 30 * 86400
local BATCH_PARTS = { '', ':added', ':finished', ':failed', ':children', ':names' }

local function split_member(member)
  return string.match(member, '^(.*):(%d+)$')
end

-- A task that waited for its batch becomes ready.
local function fire(id, now)
  local queue = queue_of(id)
  local status, target = unpack(call('HMGET', RECORD .. id, 'status', 'target'))
  if status == 'deferred' then
    call('HSET', RECORD .. id, 'status', 'queued', 'fired_at', instant(now))
    call('ZREM', DEFERRED .. queue, id)
    make_ready(queue, id, target)
  end
end

local function forget(id)
  call('DEL', RECORD .. id)
  call('ZREM', DEFERRED .. queue_of(id), id)
end

-- One child batch of a member is complete. Returns the member and its outcome if that was the last
-- thing it waited for.
local function child_complete(member, is_failed)
  local batch, index = split_member(member)
  local children = BATCH .. batch .. ':children'
  if is_failed then
    call('HSET', children, index .. ':outcome_of_children', 'failed')
  end
  local open = call('HINCRBY', children, index, -1)
  local outcome = call('HGET', children, index .. ':outcome')
  if open <= 0 and outcome then
    return member, outcome
  end
end

-- Complete a batch if it is sealed and nothing of it is open. Returns the parent's member and
-- outcome if this was the last thing that waited for.
local function complete_batch(batch, now)
  local key = BATCH .. batch
  local total, done, failed, cancelled, sealed, finished_at, on_complete, on_success, parent, cancelled_at = unpack(
    call('HMGET', key, 'total', 'done', 'failed', 'cancelled', 'sealed', 'finished_at', 'on_complete', 'on_success',
      'parent', 'cancelled_at'))
  if sealed ~= '1' or finished_at then
    return
  end
  if tonumber(done) + tonumber(failed) + tonumber(cancelled) < tonumber(total) then
    return
  end
  call('HSET', key, 'finished_at', instant(now))
  call('ZREM', OPEN_BATCHES, batch)
  if on_complete then
    fire(on_complete, now)
  end
  if on_success then
    -- Cancelled while it was filled: what there is may be done, but it is not all.
    if done == total and not cancelled_at then
      fire(on_success, now)
    else
      forget(on_success)
    end
  end
  for _, part in ipairs(BATCH_PARTS) do
    call('EXPIRE', key .. part, BATCH_LIFE)
  end
  if parent then
    return child_complete(parent, tonumber(failed) > 0)
  end
end

-- Set a member's bit. Returns its batch if that changed its counts.
local function mark_member(member, outcome)
  local batch, index = split_member(member)
  local key = BATCH .. batch
  if call('EXISTS', key) == 0 then
    return
  end
  local open, of_children = unpack(call('HMGET', key .. ':children', index, index .. ':outcome_of_children'))
  if open and tonumber(open) > 0 then
    -- A stale second entry of an acked task must not turn its "done" into "cancelled".
    call(outcome == 'cancelled' and 'HSETNX' or 'HSET', key .. ':children', index .. ':outcome', outcome)
    return
  end
  if of_children and outcome == 'done' then
    outcome = of_children
  end
  if call('SETBIT', key .. ':finished', index, 1) == 1 then
    -- Only a dead letter that was run again, and now succeeds, changes what was counted.
    if outcome == 'done' and not of_children and call('GETBIT', key .. ':failed', index) == 1 then
      call('SETBIT', key .. ':failed', index, 0)
      call('HINCRBY', key, 'failed', -1)
      call('HINCRBY', key, 'done', 1)
    end
    return
  end
  if outcome == 'failed' then
    call('SETBIT', key .. ':failed', index, 1)
  end
  call('HINCRBY', key, outcome, 1)
  return batch
end

-- The same for many members of one batch that are done. Returns whether that changed its counts.
local function mark_members_done(batch, indexes)
  local key = BATCH .. batch
  if call('EXISTS', key) == 0 then
    return false
  end
  local changed = false
  if call('EXISTS', key .. ':children') == 1 then
    for _, index in ipairs(indexes) do
      changed = mark_member(batch .. ':' .. index, 'done') ~= nil or changed
    end
    return changed
  end
  local steps = {}
  for number, index in ipairs(indexes) do
    local place = 4 * number
    steps[place - 3], steps[place - 2], steps[place - 1], steps[place] = 'SET', 'u1', index, 1
  end
  local done = 0
  for number, was_set in ipairs(call('BITFIELD', key .. ':finished', unpack(steps))) do
    if was_set == 0 then
      done = done + 1
    else
      mark_member(batch .. ':' .. indexes[number], 'done')
    end
  end
  if done > 0 then
    call('HINCRBY', key, 'done', done)
  end
  return done > 0
end

-- Complete a batch, and upwards every batch that waited for it.
local function complete_upwards(batch, now)
  while batch do
    local member, outcome = complete_batch(batch, now)
    batch = member and mark_member(member, outcome)
  end
end

local function settle_member(member, outcome, now)
  complete_upwards(mark_member(member, outcome), now)
end

-- A task whose record is gone (some tool deleted it) counts as cancelled; its id tells the member.
local function settle_lost_record(id, now)
  local batch, index = string.match(id, '^[^_]*_(.*)-(%d+)$')
  -- A bit's offset has 32 bits: a longer number is part of somebody's name.
  if not batch or #index > 9 then
    return
  end
  local key = BATCH .. batch
  if call('HGET', key, 'queue') == queue_of(id) and call('GETBIT', key .. ':added', index) == 1
    and call('HEXISTS', key .. ':names', index) == 0 then
    settle_member(batch .. ':' .. index, 'cancelled', now)
  end
end

-- A member of a cancelled batch that ran and did not end well is dropped: nobody wants it run again.
-- But for a dead letter, counted before, that somebody wanted to run again. Returns whether it was dropped.
local function drop_if_cancelled(id, member, now)
  if not member then
    return false
  end
  local batch, index = split_member(member)
  local key = BATCH .. batch
  if not call('HGET', key, 'cancelled_at') or call('GETBIT', key .. ':finished', index) == 1 then
    return false
  end
  call('DEL', RECORD .. id)
  settle_member(member, 'cancelled', now)
  return true
end
