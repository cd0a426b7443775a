-- sweep_batches: cancel members whose record another RQ tool deleted or cancelled, repair damaged batches, and
-- find abandoned batches.
--
-- ARGV: the current time, the rank of the open batch to start from, the index of its member to start from, and
-- the maximum number of members to check in this call.
-- Returns the rank and the index to continue with (0 and 0 if all members were checked), then the abandoned
-- batches, which include those that were left unsealed for 30 days.
-- States   fire: waiting → ready, gone
--
-- Without this sweep, no step would find such a member, and its batch would stay open forever.
-- include: keys
-- include: fan_in
-- include: members

local now, rank, index, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

-- Returns a member's outcome if the member has ended but its batch has not recorded it; nil if it has not ended.
-- A dead letter whose record does not name its batch is damaged.
local function unheard_end(batch, queue, at)
  if is_gone(batch, queue, at) then
    return 'cancelled'
  end
  local status, dead_at, member = unpack(call('HMGET', RECORD .. member_id(batch, queue, at), 'status', 'dead_at', 'batch'))
  return status == 'failed' and dead_at and member ~= batch .. ':' .. at and 'failed' or nil
end

-- Rebuild a batch's corrupt fields from its bits, which are the authoritative data.
local function repair(batch)
  local key = BATCH .. batch
  local total, done, failed, cancelled, sealed, sealed_at = unpack(
    call('HMGET', key, 'total', 'done', 'failed', 'cancelled', 'sealed', 'sealed_at'))
  total, done, failed, cancelled = number_of(total), number_of(done), number_of(failed), number_of(cancelled)
  local is_sealed_known = sealed == '0' or sealed == '1'
  local is_counted = done and cancelled and total == call('BITCOUNT', key .. ':added')
    and failed == call('BITCOUNT', key .. ':failed')
    and done + failed + cancelled == call('BITCOUNT', key .. ':finished')
  if is_counted and is_sealed_known then
    return
  end
  if not is_sealed_known then
    call('HSET', key, 'sealed', sealed_at and 1 or 0)
  end
  if not is_counted then
    recount(batch, 'done', 0)
  end
  complete_upwards(batch, now)
end

-- How long an unsealed batch is kept after its last member was added.
local MAX_IDLE_SECONDS = 30 * 86400

local function is_idle(batch)
  local sealed, created_at, added_at = unpack(call('HMGET', BATCH .. batch, 'sealed', 'created_at', 'added_at'))
  local last = number_of(added_at)
  if sealed == '0' and not last then
    -- The previous release does not record when it adds members.
    call('HSET', BATCH .. batch, 'added_at', instant(now))
  end
  return sealed == '0' and last and now - last > MAX_IDLE_SECONDS
end

-- Whether a child batch can no longer be filled and sealed, because the member that opened it was deleted, purged or
-- dropped, or was a deleted or expired dead letter. An existing dead letter may be retried and continue filling.
local function is_abandoned(batch)
  local sealed, parent = unpack(call('HMGET', BATCH .. batch, 'sealed', 'parent'))
  if sealed ~= '0' or not parent then
    return false
  end
  local parents_batch, at = split_member(parent)
  if not parents_batch then
    return false
  end
  local key = BATCH .. parents_batch
  local queue, outcome = call('HGET', key, 'queue'), call('HGET', key .. ':children', at .. ':outcome')
  -- The bit of a member that is still waiting for this child has not been set yet. If a member has a bit but no
  -- outcome, it had already ended when a late request opened the child. create_batch now refuses such requests.
  local has_ended
  if outcome then
    has_ended = outcome ~= 'done'
  else
    has_ended = call('GETBIT', key .. ':finished', at) == 1
  end
  return queue and has_ended and is_gone(parents_batch, queue, at)
end

-- Check members, starting at `index`. Returns the index to continue with, or nil if all were checked.
local function sweep(batch)
  local key = BATCH .. batch
  local queue = call('HGET', key, 'queue')
  local last = call('STRLEN', key .. ':added') * 8 - 1
  while queue and index <= last do
    if left <= 0 then
      return index
    end
    if call('GETBIT', key .. ':added', index) == 1 and call('GETBIT', key .. ':finished', index) == 0 then
      local outcome = unheard_end(batch, queue, index)
      if outcome then
        finish_member(batch .. ':' .. index, outcome, now)
      end
    end
    index, left = index + 1, left - 1
  end
end

local abandoned = {}

while true do
  local batch = call('ZRANGE', OPEN_BATCHES, rank, rank)[1]
  if not batch then
    return { 0, 0, unpack(abandoned) }
  end
  if index == 0 and call('EXISTS', BATCH .. batch) == 1 then
    repair(batch)
    -- The previous release does not list the batches that it creates.
    call('ZADD', KNOWN_BATCHES, 'NX', call('ZSCORE', OPEN_BATCHES, batch) or now, batch)
    if is_idle(batch) or is_abandoned(batch) then
      abandoned[#abandoned + 1] = batch
    end
  end
  local next_index = sweep(batch)
  if next_index then
    return { rank, next_index, unpack(abandoned) }
  end
  -- A batch that has just completed is no longer among the open batches, so the next batch now has its rank.
  if call('ZSCORE', OPEN_BATCHES, batch) then
    if call('EXISTS', BATCH .. batch) == 0 then
      call('ZREM', OPEN_BATCHES, batch)
    else
      rank = rank + 1
    end
  end
  index, left = 0, left - 1
  if left <= 0 then
    return { rank, 0, unpack(abandoned) }
  end
end
