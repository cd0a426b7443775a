-- run_task: run a task now, whatever its eta and its queue's rate, limit or pause.
--
-- ARGV: the task's id and the current time.
-- Returns 'ready', 'running' if the task is already running, 'waiting' if it is waiting for its batch, or 'gone' if
-- it does not exist.
-- States   run now: ready, scheduled, dead → ready
--
-- A pull task can be leased immediately; a leased pull task counts as 'running'.
-- The old entry stays in a long list, and the lease that finds it sees that the task has moved.
-- include: keys
-- include: pull

local id = ARGV[1]
local queue, key = queue_of(id), RECORD .. id
local status, eta, target, description, tag = unpack(
  call('HMGET', key, 'status', 'eta', 'target', 'description', 'tag'))

local function let_lease_now()
  local name, now = name_of(id), ARGV[2]
  local held_until = call('ZSCORE', PULL_LEASED .. queue, name)
  if status == 'failed' then
    restore_pull_task(queue, id, tag, now)
  elseif held_until and tonumber(held_until) > tonumber(now) then
    return 'running'
  elseif not tonumber(eta) or tonumber(eta) > tonumber(now) then
    call('HSET', key, 'eta', now)
    index_pull_task(queue, name, tag, now)
  end
  return 'ready'
end

if not eta then
  return 'gone'
elseif status == 'started' then
  return 'running'
elseif status == 'deferred' then
  return 'waiting'
elseif string.sub(description or '', 1, 5) == 'PULL ' then
  return let_lease_now()
end
if status == 'failed' then
  leave_dead_group(id)
end
call('ZREM', SCHEDULED .. queue, id)
call('ZREM', DEAD .. queue, id)
call('PERSIST', key)
if status == 'queued' then
  take_off_all_lists(queue, id)
end
local list, group = ready_list_of(queue, target)
call('HSET', key, 'status', 'queued')
if call('HGET', SETTINGS .. queue, 'mode') == 'pull' then
  -- The task was added when this was still a push queue. The next lease takes it over.
  call('RPUSH', list, id)
else
  call('RPUSH', RUN_NOW .. group, id)
  wake_group(group)
end
return 'ready'
