-- sweep_foreign: put back what a stock `rq worker` or another RQ tool took out of our queues.
--
-- ARGV     1 the most to move of one queue  2 how many failed jobs earlier calls have looked at  3… queues
-- Returns  flat: the task ids that were put back
-- States   restore: ready → ready, gone
--
-- A stock worker moves what it takes to '<queue>:intermediate', then fails it, for our `data` is a
-- call that only says so. A failed entry without our dead_at never was a dead letter.
-- include: keys

local most, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
local restored = {}

local function restore(queue, id)
  if call('EXISTS', RECORD .. id) == 1 then
    call('HSET', RECORD .. id, 'status', 'queued')
    call('HDEL', RECORD .. id, 'lease', 'started', 'exc_info')
    call('PERSIST', RECORD .. id)
    make_ready(queue, id, call('HGET', RECORD .. id, 'target') or nil)
    restored[#restored + 1] = id
  end
end

-- A record without our eta: gone, or only what a stock worker noted on a task of ours after its end. Where it
-- fails a job, it writes all fields that it knows.
local function is_husk(id, queue)
  local data, description = unpack(call('HMGET', RECORD .. id, 'data', 'description'))
  return not data or (queue_of(id) == queue and string.find(description or '', '^%u+ /') ~= nil)
end

for position = 3, #ARGV do
  local queue = ARGV[position]
  for _, place in ipairs(places_of(queue)) do
    for _, id in ipairs(call('LPOP', place .. ':intermediate', most) or {}) do
      local status = call('HGET', RECORD .. id, 'status')
      if status == 'queued' then
        restore(queue, id)
      end
    end
  end
  -- RQ keeps failed jobs for a year: they lie at the end. Round by round the others are looked at as well.
  local newest = call('ZREVRANGE', DEAD .. queue, 0, most - 1)
  local rank = seen % math.max(1, call('ZCARD', DEAD .. queue))
  for _, id in ipairs(call('ZRANGE', DEAD .. queue, rank, rank + most - 1)) do
    newest[#newest + 1] = id
  end
  for _, id in ipairs(newest) do
    local dead_at, eta, status = unpack(call('HMGET', RECORD .. id, 'dead_at', 'eta', 'status'))
    if not eta and not dead_at and is_husk(id, queue) then
      call('DEL', RECORD .. id)
      call('ZREM', DEAD .. queue, id)
    elseif eta and not dead_at then
      call('ZREM', DEAD .. queue, id)
      if status == 'failed' or status == 'stopped' then
        restore(queue, id)
      end
    end
  end
end
return restored
