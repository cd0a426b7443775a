-- fan_in: keep a batch's bits and counts, and complete it exactly once. Needs keys.
--
-- States   fire: waiting → ready, gone
--
-- A member is '<batch id>:<index>'. Its bit is set only once, however many times the member runs, so a second
-- delivery is never counted. A member with open child batches waits for the last of them.

local BATCH_LIFE = 30 * 86400
local BATCH_PARTS = { '', ':added', ':finished', ':failed', ':children', ':names', ':batches' }

-- A bit's offset has 32 bits. A longer number is corrupt or belongs to a name that a caller chose.
local MAX_INDEX_DIGITS = 9

-- Split a member into its batch and its index. Returns nothing if the member is malformed.
local function split_member(member)
  local batch, index = string.match(member, '^(.*):(%d+)$')
  if batch and #index <= MAX_INDEX_DIGITS then
    return batch, index
  end
end

-- All statuses that RQ and the engine write. A task with any other status cannot be located.
local STATUSES = ' queued scheduled started failed deferred created finished stopped canceled '

local function is_status(text)
  return string.find(STATUSES, ' ' .. text .. ' ', 1, true) ~= nil
end

-- A purging script sets this, so that no later purge deletes the completion tasks that it makes ready.
local fired_by

-- Make a waiting task ready, because its batch is complete.
local function fire(id, now)
  local queue = queue_of(id)
  local status, target = unpack(call('HMGET', RECORD .. id, 'status', 'target'))
  if status == 'deferred' or (status and not is_status(status)) then
    call('HSET', RECORD .. id, 'status', 'queued', 'fired_at', instant(now))
    if fired_by then
      call('HSET', RECORD .. id, 'fired_by', fired_by)
    end
    call('ZREM', DEFERRED .. queue, id)
    make_ready(queue, id, target)
  end
end

local function forget(id)
  call('DEL', RECORD .. id)
  call('ZREM', DEFERRED .. queue_of(id), id)
end

-- Rebuild a batch's counts from its bits because a count is wrong. The bits do not distinguish done from cancelled
-- members, so one of these two counts must be right. `outcome` and `number` describe the members not counted yet.
local function recount(batch, outcome, number)
  local key = BATCH .. batch
  local failed = call('BITCOUNT', key .. ':failed')
  local ended = call('BITCOUNT', key .. ':finished') - failed
  local done, cancelled = unpack(call('HMGET', key, 'done', 'cancelled'))
  done, cancelled = number_of(done), number_of(cancelled)
  if cancelled then
    cancelled = cancelled + (outcome == 'cancelled' and number or 0)
  else
    cancelled = done and ended - done - (outcome == 'done' and number or 0) or 0
  end
  cancelled = math.max(0, math.min(cancelled, ended))
  call('HSET', key, 'total', call('BITCOUNT', key .. ':added'), 'failed', failed, 'cancelled', cancelled,
    'done', ended - cancelled)
  note_damage('the counts of the batch ' .. batch .. ' were wrong and have been recounted')
end

-- Adjust one of a batch's counts after its members' bits have changed. Returns whether the old count was valid.
local function count(batch, outcome, number)
  if type_of(try('HINCRBY', BATCH .. batch, outcome, number)) == 'number' then
    return true
  end
  recount(batch, outcome, number)
  return false
end

-- Record that a member's child batch is complete. Returns the member and its outcome
-- if it was waiting for nothing else.
local function child_complete(member, is_failed)
  local batch, index = split_member(member)
  if not batch then
    note_damage('a complete batch has the malformed parent ' .. member)
    return
  end
  local children = BATCH .. batch .. ':children'
  if is_failed then
    call('HSET', children, index .. ':outcome_of_children', 'failed')
  end
  local open = try('HINCRBY', children, index, -1)
  if type_of(open) ~= 'number' then
    -- The number of open children is lost. Assume 0, because completing late is worse than completing early.
    call('HSET', children, index, 0)
    open = 0
  end
  local outcome = call('HGET', children, index .. ':outcome')
  if open <= 0 and outcome then
    return member, outcome
  end
end

-- Complete a batch if it is sealed and all its members have ended. Returns the parent member and its outcome if
-- the parent was waiting for nothing else.
local function complete_batch(batch, now)
  local key = BATCH .. batch
  local total, done, failed, cancelled, sealed, finished_at, on_complete, on_success, parent, cancelled_at = unpack(
    call('HMGET', key, 'total', 'done', 'failed', 'cancelled', 'sealed', 'finished_at', 'on_complete', 'on_success',
      'parent', 'cancelled_at'))
  if sealed ~= '1' or (finished_at and number_of(finished_at)) then
    return
  end
  local all, ended = tonumber(total), (tonumber(done) or 0) + (tonumber(failed) or 0) + (tonumber(cancelled) or 0)
  if all and ended < all then
    -- This is the usual case. If a count is wrong, sweep_batches will find it.
    return
  end
  if not (number_of(total) and number_of(done) and number_of(failed) and number_of(cancelled)) then
    recount(batch, 'done', 0)
    total, done, failed, cancelled = unpack(call('HMGET', key, 'total', 'done', 'failed', 'cancelled'))
  end
  if tonumber(done) + tonumber(failed) + tonumber(cancelled) ~= tonumber(total) then
    return
  end
  call('HSET', key, 'finished_at', instant(now))
  call('ZREM', OPEN_BATCHES, batch)
  if on_complete and queue_of(on_complete) then
    fire(on_complete, now)
  end
  if on_success and queue_of(on_success) then
    -- If a batch was cancelled during filling, all its members may be done although some were never added.
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

-- Set a member's bit. Returns the member's batch if its counts have changed.
local function mark_member(member, outcome)
  local batch, index = split_member(member)
  local key = BATCH .. (batch or '')
  if not batch or call('EXISTS', key) == 0 then
    return
  end
  local open, of_children = unpack(call('HMGET', key .. ':children', index, index .. ':outcome_of_children'))
  if open and (number_of(open) or 0) > 0 then
    -- A stale duplicate entry of an acknowledged task must not turn its "done" into "cancelled".
    call(outcome == 'cancelled' and 'HSETNX' or 'HSET', key .. ':children', index .. ':outcome', outcome)
    return
  end
  if of_children and outcome == 'done' then
    outcome = of_children
  end
  if call('SETBIT', key .. ':finished', index, 1) == 1 then
    -- The bit was already set, so the counts change only if a dead letter has run again and succeeded.
    if outcome == 'done' and not of_children and call('GETBIT', key .. ':failed', index) == 1 then
      call('SETBIT', key .. ':failed', index, 0)
      if count(batch, 'failed', -1) then
        count(batch, 'done', 1)
      end
    end
    return
  end
  if outcome == 'failed' then
    call('SETBIT', key .. ':failed', index, 1)
  end
  count(batch, outcome, 1)
  return batch
end

-- Set the bits of many done members of one batch. Returns whether the batch's counts have changed.
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
    local last = 4 * number
    steps[last - 3], steps[last - 2], steps[last - 1], steps[last] = 'SET', 'u1', index, 1
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
    count(batch, 'done', done)
  end
  return done > 0
end

-- Complete a batch, and then every ancestor that was waiting for it.
local function complete_upwards(batch, now)
  while batch do
    local member, outcome = complete_batch(batch, now)
    batch = member and mark_member(member, outcome)
  end
end

local function finish_member(member, outcome, now)
  complete_upwards(mark_member(member, outcome), now)
end

-- End a batch member by its task id, because another tool deleted its record or the record does not name the
-- member. The outcome is 'cancelled' unless the caller passes another outcome.
local function finish_lost_record(id, now, outcome)
  local batch, index = string.match(id, '^[^_]*_(.*)-(%d+)$')
  if not batch or #index > MAX_INDEX_DIGITS then
    return
  end
  local key = BATCH .. batch
  if call('HGET', key, 'queue') == queue_of(id) and call('GETBIT', key .. ':added', index) == 1
    and call('HEXISTS', key .. ':names', index) == 0 then
    finish_member(batch .. ':' .. index, outcome or 'cancelled', now)
  end
end

-- Drop a failed member of a cancelled batch instead of retrying it. Returns whether it was dropped.
-- A dead letter that was run again on request is not dropped, because its failure was already counted.
local function drop_if_cancelled(id, member, now)
  if not member then
    return false
  end
  local batch, index = split_member(member)
  if not batch then
    return false
  end
  local key = BATCH .. batch
  if not call('HGET', key, 'cancelled_at') or call('GETBIT', key .. ':finished', index) == 1 then
    return false
  end
  delete_record(id)
  finish_member(member, 'cancelled', now)
  return true
end
