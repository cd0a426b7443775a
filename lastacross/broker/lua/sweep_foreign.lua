-- sweep_foreign: restore tasks that a stock `rq worker` or another RQ tool removed from our queues.
--
-- ARGV: the maximum number of tasks to move per queue, the number of failed jobs that earlier calls checked,
-- then the queues.
-- Returns the ids of the restored tasks.
-- States   restore: ready → ready, gone
--
-- A stock worker moves a job to '<queue>:intermediate' and then fails it, because our `data` is a call that
-- always raises. A failed task without our dead_at was never a dead letter.
-- include: keys
-- include: dead_groups

local limit, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
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

-- Whether a record lacks our eta. If so, the task no longer exists, or a stock worker wrote to its record after it
-- had ended, because a worker that fails a job writes every field it knows.
local function is_husk(id, queue)
  local data, description = unpack(call('HMGET', RECORD .. id, 'data', 'description'))
  return not data or (queue_of(id) == queue and string.find(description or '', '^%u+ /') ~= nil)
end

local is_known_group = {}

local function is_in_group(group, id)
  if not group then
    return false
  end
  if is_known_group[group] == nil then
    is_known_group[group] = call('HEXISTS', DEAD_GROUPS, group) == 1
  end
  return is_known_group[group] and call('ZSCORE', DEAD_GROUP .. group, id)
end

for position = 3, #ARGV do
  local queue = ARGV[position]
  for _, list in ipairs(ready_lists_of(queue)) do
    for _, id in ipairs(call('LPOP', list .. ':intermediate', limit) or {}) do
      local status = call('HGET', RECORD .. id, 'status')
      if status == 'queued' then
        restore(queue, id)
      end
    end
  end
  -- RQ keeps failed jobs for a year, so they accumulate at the end. Later rounds also check the other entries.
  local newest = call('ZREVRANGE', DEAD .. queue, 0, limit - 1)
  local rank = seen % math.max(1, call('ZCARD', DEAD .. queue))
  for _, id in ipairs(call('ZRANGE', DEAD .. queue, rank, rank + limit - 1)) do
    newest[#newest + 1] = id
  end
  for _, id in ipairs(newest) do
    local dead_at, eta, status, group = unpack(
      call('HMGET', RECORD .. id, 'dead_at', 'eta', 'status', 'dead_group'))
    if not eta and not dead_at and is_husk(id, queue) then
      delete_record(id)
      call('ZREM', DEAD .. queue, id)
    elseif eta and not dead_at then
      call('ZREM', DEAD .. queue, id)
      if status == 'failed' or status == 'stopped' then
        restore(queue, id)
      end
    elseif dead_at and status == 'failed' and not is_in_group(group, id) then
      -- A worker of the previous release created this letter, and did not count it.
      local expires_at = call('ZSCORE', DEAD .. queue, id)
      if expires_at then
        join_dead_group(id, number_of(dead_at) and dead_at or '0', expires_at)
      end
    end
  end
end
return restored
