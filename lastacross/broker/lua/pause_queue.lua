-- pause_queue: stop or resume leasing from a queue.
--
-- ARGV: the queue, then 1 to pause it or 0 to resume it.
-- Returns 1 if the queue's state has changed.
-- include: keys

local queue = ARGV[1]
if ARGV[2] == '1' then
  return call('SADD', PAUSED, queue)
end
local changed = call('SREM', PAUSED, queue)
for _, group in ipairs(groups_of_all()) do
  wake_group(group)
end
return changed
