-- delete_tasks: forget tasks, wherever they wait; one that runs now finishes unheard.
--
-- KEYS     as in shared/keys
-- ARGV     1 now  then the task ids
-- Returns  for each task 1 deleted, 0 there is none
-- include: keys
-- include: fan_in
-- include: lose
-- include: pull

-- Longer than this a search through the list would hold up everybody else: the entry stays, and
-- the lease that meets it finds no record.
local LONGEST_SEARCH = 10000

local now = tonumber(ARGV[1])
local results = {}
for position = 2, #ARGV do
  local id = ARGV[position]
  local queue = queue_of(id)
  local fields = pairs_of(call('HGETALL', RECORD .. id))
  if fields.status and fields.status ~= 'deferred' then
    call('DEL', RECORD .. id)
    call('ZREM', SCHEDULED .. queue, id)
    call('ZREM', DEAD .. queue, id)
    if remove_pull_task(queue, name_of(id), fields.tag) and fields.leases then
      -- Deleting is how a pull task ends well.
      count_executed(queue, 1, now)
    end
    if fields.lease and call('ZREM', LEASED .. queue, id .. ':' .. fields.lease) == 1 then
      wake_for_place(queue)
    end
    local place = place_of(queue, fields.target)
    if fields.status == 'queued' and call('LLEN', place) <= LONGEST_SEARCH then
      call('LREM', place, 0, id)
    end
    leave_tombstone(id, fields.tombstone)
    if fields.batch then
      settle_member(fields.batch, 'cancelled', now)
    end
    results[#results + 1] = 1
  else
    results[#results + 1] = 0
  end
end
return results
