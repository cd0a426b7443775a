-- delete_tasks: forget tasks, wherever they wait; one that runs now finishes unheard.
--
-- ARGV     1 now  then the task ids
-- Returns  for each task 1 deleted, 0 there is none
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
  -- Not the whole record: a hundred payloads of 1 MiB would hold up everybody else.
  local status, lease, leases, tag, target, tombstone, batch = unpack(
    call('HMGET', RECORD .. id, 'status', 'lease', 'leases', 'tag', 'target', 'tombstone', 'batch'))
  -- Without a status it is damaged, and may be deleted as any other.
  if status ~= 'deferred' and (status or call('EXISTS', RECORD .. id) == 1) then
    call('DEL', RECORD .. id)
    call('ZREM', SCHEDULED .. queue, id)
    call('ZREM', DEAD .. queue, id)
    if remove_pull_task(queue, name_of(id), tag) and leases then
      -- Deleting is how a pull task ends well.
      count_executed(queue, 1, now)
    end
    if lease and call('ZREM', LEASED .. queue, id .. ':' .. lease) == 1 then
      wake_for_place(queue)
    end
    if status == 'queued' then
      local place, group = place_of(queue, target)
      take_off(place, id)
      call('LREM', RUN_NOW .. group, 0, id)
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
