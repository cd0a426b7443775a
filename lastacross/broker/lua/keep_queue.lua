-- keep_queue: write the settings of one of the engine's own queues, which no upload of queue.yaml disables.
--
-- ARGV: the queue, then its settings' fields and values.
-- Returns 1 if the queue is new.
-- include: keys

local queue = ARGV[1]
local is_new = call('SADD', QUEUE_NAMES, queue)
call('HSET', SETTINGS .. queue, 'is_disabled', '0', 'is_own', '1', 'group', 'default', unpack(ARGV, 2))
if call('EXISTS', UPLOAD) == 1 then
  -- A new version makes every process refresh its queues. If there is no upload yet, a process will soon make one.
  call('HINCRBY', UPLOAD, 'version', 1)
end
wake_group('default')
return is_new
