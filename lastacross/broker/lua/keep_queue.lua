-- keep_queue: give a queue of the engine's own its settings; no upload of queue.yaml disables it.
--
-- ARGV     1 the queue  then the fields and values of its settings
-- Returns  1 if it was not there before
-- include: keys

local queue = ARGV[1]
local is_new = call('SADD', QUEUE_NAMES, queue)
call('HSET', SETTINGS .. queue, 'is_disabled', '0', 'is_own', '1', 'group', 'default', unpack(ARGV, 2))
if call('EXISTS', UPLOAD) == 1 then
  -- Everybody looks at the queues again. Without an upload, somebody is about to make one.
  call('HINCRBY', UPLOAD, 'version', 1)
end
wake_group('default')
return is_new
