-- delete_dead: delete dead letters. A task in any other state stays.
--
-- ARGV: the current time, then the task ids.
-- Returns, for each task, 1 if it was deleted, or 0 if it is not a dead letter.
-- States   delete: dead → gone
-- include: keys
-- include: fan_in
-- include: lose

local now = tonumber(ARGV[1])
local results = {}
for position = 2, #ARGV do
  local id = ARGV[position]
  local status, dead_at, tombstone, batch = unpack(
    call('HMGET', RECORD .. id, 'status', 'dead_at', 'tombstone', 'batch'))
  local is_dead = status == 'failed' and dead_at
  if is_dead then
    leave_dead_group(id)
    delete_record(id)
    call('ZREM', DEAD .. queue_of(id), id)
    leave_tombstone(id, tombstone)
    if batch then
      finish_member(batch, 'cancelled', now)
    end
  end
  results[#results + 1] = is_dead and 1 or 0
end
return results
