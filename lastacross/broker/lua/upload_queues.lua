-- upload_queues: upload queue.yaml for all machines, like a deployment on App Engine.
--
-- ARGV: the current time, the file's digest, 1 to resume paused queues, the number of services, the services,
-- then the names of the backends among them in one string, separated by spaces. Then for each queue: its name,
-- the number of strings that follow, and then those strings: its settings' fields and values.
-- Returns the names of queues that are new or were disabled.
--
-- A queue that is no longer listed keeps its tasks but does not lease them. This does not apply to the
-- engine's own queues (keep_queue), because queue.yaml does not list them.
-- include: keys

local services = tonumber(ARGV[4])
local backends = ARGV[5 + services]

-- Tasks of a backend that is no longer listed go to the default service unless its workers register within a second.
local is_backend = {}
for backend in string.gmatch(backends, '%S+') do
  is_backend[backend] = true
end
for backend in string.gmatch(call('HGET', UPLOAD, 'backends') or '', '%S+') do
  if not is_backend[backend] then
    call('SREM', SERVICES, backend)
    for _, id in ipairs(call('LRANGE', RUN_NOW .. backend, 0, -1)) do
      call('RPUSH', RUN_NOW .. 'default', id)
    end
    call('DEL', RUN_NOW .. backend)
  end
end
for position = 5, 4 + services do
  call('SADD', SERVICES, ARGV[position])
end

local listed, added = {}, {}
local position = 6 + services
while position <= #ARGV do
  local queue, size = ARGV[position], tonumber(ARGV[position + 1])
  local key = SETTINGS .. queue
  if call('HGET', key, 'is_disabled') ~= '0' then
    added[#added + 1] = queue
  end
  call('DEL', key)
  call('HSET', key, 'is_disabled', '0', unpack(ARGV, position + 2, position + 1 + size))
  listed[queue] = true
  position = position + 2 + size
end

for _, queue in ipairs(call('SMEMBERS', QUEUE_NAMES)) do
  if not listed[queue] and call('HGET', SETTINGS .. queue, 'is_own') ~= '1' then
    call('HSET', SETTINGS .. queue, 'is_disabled', '1')
  end
end
for queue in pairs(listed) do
  call('SADD', QUEUE_NAMES, queue)
end
for _, queue in ipairs(call('SMEMBERS', QUEUE_NAMES)) do
  local target = call('HGET', SETTINGS .. queue, 'target')
  call('HSET', SETTINGS .. queue, 'group', target and target ~= '' and group_of(target) or 'default')
end
if ARGV[3] == '1' then
  call('DEL', PAUSED)
end
call('HSET', UPLOAD, 'digest', ARGV[2], 'uploaded_at', ARGV[1], 'backends', backends)
call('HINCRBY', UPLOAD, 'version', 1)
-- Wake every group, because tasks that waited for a token at the old rate may run now.
for _, group in ipairs(groups_of_all()) do
  wake_group(group)
end
return added
