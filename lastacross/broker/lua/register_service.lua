-- register_service: register a service whose workers have started, so that its tasks wait for them from now on.
--
-- ARGV: the service.
-- Returns 1 if the service was unknown until now.
--
-- Some of its tasks may already be in the default service's lists. The next lease that finds one moves it.
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
