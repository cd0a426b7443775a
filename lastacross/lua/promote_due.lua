-- promote_due: scheduled tasks whose eta has come become ready.
--
-- ARGV     1 now  2 the most to move of one queue  3… queues
-- Returns  1 how many were moved  2 the eta of the next scheduled task of these queues, or ''
-- include: keys
-- include: fan_in

local now, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local moved, next_due = 0, nil
for position = 3, #ARGV do
  local queue = ARGV[position]
  local scheduled = SCHEDULED .. queue
  local due = call('ZRANGEBYSCORE', scheduled, '-inf', instant(now), 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local status, target = unpack(call('HMGET', RECORD .. id, 'status', 'target'))
    if status == 'scheduled' then
      call('HSET', RECORD .. id, 'status', 'queued')
      arrive(queue, id, target)
      moved = moved + 1
    elseif not status then
      settle_lost_record(id, now)
    end
  end
  if #due > 0 then
    call('ZREM', scheduled, unpack(due))
  end
  local first = call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
  if first[2] then
    next_due = math.min(next_due or tonumber(first[2]), tonumber(first[2]))
  end
end
make_arrivals_ready()
return { moved, next_due and instant(next_due) or '' }
