-- register_service: register a service whose workers have started; from now on its tasks wait for them.
--
-- ARGV     1 the service
-- Returns  1 if it was not known before
--
-- Some of its tasks may have gone to the default service meanwhile. The next lease that meets one moves it.
-- include: keys

local service = ARGV[1]
local is_new = call('SADD', SERVICES, service)
for _, queue in ipairs(call('SMEMBERS', QUEUE_NAMES)) do
  local target, group = unpack(call('HMGET', SETTINGS .. queue, 'target', 'group'))
  if target and target ~= '' and group_of(target) ~= group then
    call('HSET', SETTINGS .. queue, 'group', group_of(target))
  end
end
if is_new == 1 then
  call('HINCRBY', UPLOAD, 'version', 1)
end
wake_group(service)
return is_new
