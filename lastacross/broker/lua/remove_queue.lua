-- remove_queue: forget a disabled queue without tasks.
--
-- ARGV: the queue.
-- Returns 1 if it was forgotten, 0 if there is no such queue or queue.yaml still lists it, or -1 if it has tasks.
-- include: keys

local queue = ARGV[1]
if call('HGET', SETTINGS .. queue, 'is_disabled') ~= '1' then
  return 0
end
local tasks = 0
for _, list in ipairs(ready_lists_of(queue)) do
  tasks = tasks + call('LLEN', list)
end
for _, prefix in ipairs({ LEASED, SCHEDULED, DEFERRED, DEAD, PULL }) do
  tasks = tasks + call('ZCARD', prefix .. queue)
end
for _, group in ipairs(groups_of_all()) do
  for _, id in ipairs(call('LRANGE', RUN_NOW .. group, 0, -1)) do
    tasks = tasks + (queue_of(id) == queue and 1 or 0)
  end
end
if tasks > 0 then
  return -1
end
call('DEL', SETTINGS .. queue, BUCKET .. queue)
call('SREM', QUEUE_NAMES, queue)
call('SREM', PAUSED, queue)
call('SREM', DRAINING, queue)
call('SREM', QUEUES, READY .. queue)
-- Every process rereads the settings within a second.
if call('EXISTS', UPLOAD) == 1 then
  call('HINCRBY', UPLOAD, 'version', 1)
end
return 1
