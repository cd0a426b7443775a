-- due: promote scheduled tasks. Needs keys, fan_in and lose.

-- Collect a queue's due tasks with `arrive`. Returns how many there were, and the eta of the next task or nil. The
-- caller must finish by running `make_arrivals_ready` once.
local function promote_of(queue, now, limit)
  local scheduled, moved = SCHEDULED .. queue, 0
  local due = call('ZRANGEBYSCORE', scheduled, '-inf', instant(now), 'LIMIT', 0, limit)
  for _, id in ipairs(due) do
    local status, target = unpack(call('HMGET', RECORD .. id, 'status', 'target'))
    if status == 'scheduled' then
      call('HSET', RECORD .. id, 'status', 'queued')
      arrive(queue, id, target)
      moved = moved + 1
    elseif not dead_letter_if_damaged(id, queue, status, now) and not status then
      finish_lost_record(id, now)
    end
  end
  if #due > 0 then
    call('ZREM', scheduled, unpack(due))
  end
  local first = call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
  return moved, first[2] and tonumber(first[2])
end

-- Promote the due tasks of many queues. Returns how many there were, and the eta of the next task or ''.
local function promote_of_all(queues, now, limit)
  local moved, next_due = 0, nil
  for _, queue in ipairs(queues) do
    local number, next_of_queue = promote_of(queue, now, limit)
    moved = moved + number
    next_due = next_of_queue and math.min(next_due or next_of_queue, next_of_queue) or next_due
  end
  make_arrivals_ready()
  return moved, next_due and instant(next_due) or ''
end
