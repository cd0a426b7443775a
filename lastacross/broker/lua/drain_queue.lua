-- drain_queue: make a queue refuse new tasks, or accept them again.
--
-- ARGV: the queue, then 1 to drain it or 0 to end the drain.
-- Returns 1 if the queue's state has changed.
--
-- Processes that add tasks refuse them based on their own copies of the settings, so adding a task takes no extra
-- command. A new version of the upload makes every process reread the settings within a second.
-- include: keys

local changed = call(ARGV[2] == '1' and 'SADD' or 'SREM', DRAINING, ARGV[1])
if changed == 1 and call('EXISTS', UPLOAD) == 1 then
  call('HINCRBY', UPLOAD, 'version', 1)
end
return changed
