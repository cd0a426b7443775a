-- purge_queue: forget tasks of a queue: ready, scheduled and leased ones; dead letters stay.
--
-- KEYS     as in shared/keys
-- ARGV     1 now  2 queue  3 the most to forget in this call
-- Returns  how many entries were taken away; call again until it is 0
-- include: keys
-- include: fan_in
-- include: lose

local now, queue, most = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local function forget_task(id)
  local tombstone, member, status = unpack(call('HMGET', RECORD .. id, 'tombstone', 'batch', 'status'))
  if status == 'failed' then
    return
  end
  call('DEL', RECORD .. id)
  leave_tombstone(id, tombstone)
  if member then
    settle_member(member, 'cancelled', now)
  elseif not status then
    settle_lost_record(id, now)
  end
end

local ready = call('LPOP', READY .. queue, most) or {}
for _, id in ipairs(ready) do
  forget_task(id)
end
local count = #ready
for _, key in ipairs({ SCHEDULED .. queue, LEASED .. queue }) do
  if count < most then
    local entries = call('ZPOPMIN', key, most - count)
    for position = 1, #entries, 2 do
      forget_task(string.match(entries[position], '^[^:]*'))
      count = count + 1
    end
  end
end
return count
