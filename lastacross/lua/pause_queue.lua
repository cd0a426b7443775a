-- pause_queue: hand out no more tasks of a queue, or go on.
--
-- KEYS     as in shared/keys
-- ARGV     1 queue  2 1 to pause, 0 to resume
-- Returns  1 if that changed anything
-- include: keys

local queue = ARGV[1]
if ARGV[2] == '1' then
  return call('SADD', PAUSED, queue)
end
local changed = call('SREM', PAUSED, queue)
wake_group(call('HGET', SETTINGS .. queue, 'group') or 'default')
for _, service in ipairs(call('SMEMBERS', SERVICES)) do
  wake_group(service)
end
return changed
