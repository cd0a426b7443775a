-- keep_queue: write the settings of a queue that the engine itself uses; no upload of queue.yaml disables it.
--
-- ARGV     1 the queue  then the fields and values of its settings
-- Returns  1 if it is new
-- include: keys

local queue = ARGV[1]
local is_new = call('SADD', QUEUE_NAMES, queue)
call('HSET', SETTINGS .. queue, 'is_disabled', '0', 'is_own', '1', 'group', 'default', unpack(ARGV, 2))
if call('EXISTS', UPLOAD) == 1 then
  -- The new version makes every process refresh its queues. Without an upload, some process is about to upload.
  call('HINCRBY', UPLOAD, 'version', 1)
end
wake_group('default')
return is_new
