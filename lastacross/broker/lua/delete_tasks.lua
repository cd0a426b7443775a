-- delete_tasks: delete tasks in any state. A running task still finishes, but its result is ignored.
--
-- ARGV: the current time, then the task ids.
-- Returns, for each task, 1 if it was deleted, or 0 if it does not exist.
-- States   delete: ready, scheduled, leased, dead → gone
-- include: keys
-- include: fan_in
-- include: lose
-- include: pull

local now = tonumber(ARGV[1])
local results = {}
for position = 2, #ARGV do
  local id = ARGV[position]
  local queue = queue_of(id)
  -- Read only these fields, because reading a hundred records with payloads of 1 MiB would block Redis.
  local status, lease, leases, tag, tombstone, batch, group = unpack(
    call('HMGET', RECORD .. id, 'status', 'lease', 'leases', 'tag', 'tombstone', 'batch', 'dead_group'))
  -- A record without a status is damaged, but it may be deleted like any other record.
  if status ~= 'deferred' and (status or call('EXISTS', RECORD .. id) == 1) then
    if group then
      -- A dead letter, or one that RQ's tools have put back into its queue.
      leave_dead_group(id)
    end
    delete_record(id)
    call('ZREM', SCHEDULED .. queue, id)
    call('ZREM', DEAD .. queue, id)
    if remove_pull_task(queue, name_of(id), tag) and leases then
      -- A client reports the success of a pull task by deleting it.
      count_executed(queue, 1, now)
    end
    if lease and call('ZREM', LEASED .. queue, id .. ':' .. lease) == 1 then
      wake_for_slot(queue)
    end
    if status == 'queued' then
      take_off_all_lists(queue, id)
    end
    leave_tombstone(id, tombstone)
    if batch then
      finish_member(batch, 'cancelled', now)
    end
    results[#results + 1] = 1
  else
    results[#results + 1] = 0
  end
end
return results
