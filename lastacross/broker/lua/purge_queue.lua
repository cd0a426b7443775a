-- purge_queue: delete a queue's ready, scheduled and leased tasks; dead letters stay.
--
-- ARGV: the current time, the queue, the maximum number of tasks to delete in this call, and the time at which
-- the purge began.
-- Returns the number of removed entries; call again until it is 0.
-- States   purge: ready, scheduled, leased → gone
--
-- If this purge or an earlier one fires a completion task, that task is not purged.
-- include: keys
-- include: fan_in
-- include: lose
-- include: pull

fired_by = 'purge'
local now, queue, limit, began_at = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- Delete one task unless it must stay. Returns whether it must stay.
local function forget_task(id)
  local tombstone, member, status, fired_at, by, group = unpack(
    call('HMGET', RECORD .. id, 'tombstone', 'batch', 'status', 'fired_at', 'fired_by', 'dead_group'))
  if status == 'failed' then
    return false
  elseif by == 'purge' or (fired_at and (number_of(fired_at) or 0) >= began_at) then
    return true
  end
  if group then
    -- RQ's tools have put a dead letter back into its queue.
    leave_dead_group(id)
  end
  delete_record(id)
  leave_tombstone(id, tombstone)
  if member then
    finish_member(member, 'cancelled', now)
  elseif not status then
    finish_lost_record(id, now)
  end
  return false
end

local count = 0
for _, list in ipairs(ready_lists_of(queue)) do
  -- Look at each entry only once: a task that is kept moves to the end of the list.
  local left = call('LLEN', list)
  while left > 0 and count < limit do
    local ids = call('LPOP', list, math.min(left, limit - count))
    left = left - #ids
    for _, id in ipairs(ids) do
      if forget_task(id) then
        call('RPUSH', list, id)
      else
        count = count + 1
      end
    end
  end
end
for _, group in ipairs(groups_of_all()) do
  -- These lists are short, because they contain only run-now requests that no worker has taken yet.
  for _, id in ipairs(call('LRANGE', RUN_NOW .. group, 0, -1)) do
    if queue_of(id) == queue and not forget_task(id) then
      call('LREM', RUN_NOW .. group, 0, id)
      count = count + 1
    end
  end
end
for _, key in ipairs({ SCHEDULED .. queue, LEASED .. queue }) do
  -- Skip the tasks that stay.
  local first, entries = 0, { '' }
  while count < limit and #entries > 0 do
    entries = call('ZRANGE', key, first, first + limit - count - 1)
    for _, entry in ipairs(entries) do
      if forget_task(string.match(entry, '^[^:]*')) then
        first = first + 1
      else
        call('ZREM', key, entry)
        count = count + 1
      end
    end
  end
end
for _, id in ipairs(count < limit and pop_pull_tasks(queue, limit - count) or {}) do
  forget_task(id)
  count = count + 1
end
return count
