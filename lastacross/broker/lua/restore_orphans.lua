-- restore_orphans: restore tasks that are in no list and no registry, because a stock worker took them and died
-- or because another program overwrote the list.
--
-- ARGV: the ids of tasks that were in no list in two consecutive checks.
-- Returns the ids of the restored tasks.
-- States   restore: ready, scheduled, leased → ready, scheduled
--
-- A duplicate entry in the ready list is harmless, because the lease that finds it sees that the task has moved.
-- include: keys

local restored = {}
for _, id in ipairs(ARGV) do
  local queue = queue_of(id)
  local status, lease, target, eta = unpack(call('HMGET', RECORD .. id, 'status', 'lease', 'target', 'eta'))
  local is_leased = lease and call('ZSCORE', LEASED .. queue, id .. ':' .. lease)
  if status == 'queued' or (status == 'started' and not is_leased) then
    call('HSET', RECORD .. id, 'status', 'queued')
    call('HDEL', RECORD .. id, 'lease', 'started')
    make_ready(queue, id, target)
    restored[#restored + 1] = id
  elseif status == 'scheduled' and not call('ZSCORE', SCHEDULED .. queue, id) then
    -- The task was scheduled, but another program overwrote the registry.
    schedule(queue, id, number_of(eta) and eta or 0, target or nil)
    restored[#restored + 1] = id
  end
end
wake_for_all_scheduled()
return restored
