-- cancel_batch: drop a batch's undelivered members; running members finish.
--
-- ARGV: the current time, the batch id, the index to start from, and the maximum number of members to check in
-- this call.
-- Returns the index to continue with, -1 if all members were checked, or -2 if the batch does not exist.
-- States   cancel: ready, scheduled → gone
-- include: keys
-- include: fan_in
-- include: members
-- include: lose

local now, batch, index, limit = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = BATCH .. batch
local queue, finished_at, cancelled_at = unpack(call('HMGET', key, 'queue', 'finished_at', 'cancelled_at'))
if not queue then
  return -2
elseif finished_at then
  return -1
end
if not cancelled_at then
  call('HSET', key, 'cancelled_at', ARGV[1], 'sealed', 1, 'sealed_at', ARGV[1])
end

local function drop(id, member)
  local status, tombstone = unpack(call('HMGET', RECORD .. id, 'status', 'tombstone'))
  if status == 'queued' or status == 'scheduled' then
    delete_record(id)
    call('ZREM', SCHEDULED .. queue_of(id), id)
    leave_tombstone(id, tombstone)
    mark_member(member, 'cancelled')
  elseif not status then
    mark_member(member, 'cancelled')
  end
end

-- If filling was interrupted, some indexes between the existing members may have no member.
local seen, last = 0, call('STRLEN', key .. ':added') * 8 - 1
while index <= last and seen < limit do
  if call('GETBIT', key .. ':added', index) == 1 and call('GETBIT', key .. ':finished', index) == 0 then
    drop(member_id(batch, queue, index), batch .. ':' .. index)
  end
  index, seen = index + 1, seen + 1
end
complete_upwards(batch, now)
return index <= last and index or -1
