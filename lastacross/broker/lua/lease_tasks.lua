-- lease_tasks: lease ready tasks to a worker of their group, within their queues' limits.
--
-- ARGV 1: the current time in trusted_time's format, or '' if this call is queued behind a BLPOP. In that case the
-- server's clock is used, as it is when the call is late because its process or network was frozen. With the old
-- time, the leases would expire immediately, and the buckets' clock would seem to have been set back.
-- ARGV 2 to 5: how many seconds a lease lasts, the worker's lease token, the number of its last lease, and
-- the maximum number of tasks to lease.
-- ARGV 6: the number of free threads, or -1 if it is unknown when this runs. In that case the worker gets only tasks
-- to which no limit applies, and asks again immediately if there are others.
-- ARGV 7 and 8…: the number of groups that the worker serves, and the groups.
-- Then come the lists, in the order in which to serve them: '<queue>', or '<queue>.<group>' for a queue's tasks
-- that wait for a group other than the queue's own.
-- Returns six values:
-- 1. the tasks, each as {task id, lease id, record as HGETALL returns it}; a record has the field 'group' if
--    the task's group is not 'default'
-- 2. the time at which a throttled queue will have a token again, or ''
-- 3. 1 if a queue has more tasks that could be leased now
-- 4. the queues whose settings are missing because Redis was flushed; upload them and call again
-- 5. 1 if a marker also asked for a promotion of scheduled tasks
-- 6. the list to start from once a thread is free to start its task immediately, or ''
-- States   lease: ready → leased, dead
--
-- The script that grants the leases also counts the tokens and slots, so limits hold across all machines.
-- include: keys
-- include: fan_in
-- include: lose
-- include: server_time

if call('EXISTS', SUSPENDED) == 1 then
  return { {}, '', 0, {}, 0, '' }
end

local lease_seconds, token, number = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local wanted, free, groups = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- A thread that is free when the worker asks may be busy when the reply arrives. A throttled queue's task would
-- then have to wait for the thread although its token is already spent.
local is_asleep = free < 0
free = math.max(0, free)
local now, is_trusted = trusted_time(ARGV[1])
if not now or not is_trusted then
  now = server_time()
end
local score = instant(now + lease_seconds + LEASE_SHIFT)
local leased, missing, next_due, more, must_promote, resume_at_list = {}, {}, nil, 0, 0, nil
local serves = {}
for position = 8, 7 + groups do
  local group = ARGV[position]
  serves[group] = true
  -- The worker takes the marker if it has a free thread for the announced task. Any worker can promote tasks.
  local is_scheduled = call('LINDEX', WAKEUP .. group, 0) == 'scheduled'
  if is_scheduled then
    must_promote = 1
  end
  if is_scheduled or free > 0 then
    call('LPOP', WAKEUP .. group)
  end
end

-- Machines agree on the time to within a few milliseconds. If a bucket's time is further ahead than this, the
-- server's clock has been set back since then.
local MAX_SKEW_SECONDS = 10

-- Compute the queue's current bucket. Its time never goes backwards, because otherwise machines whose clocks differ
-- slightly would gain extra tokens whenever they take turns.
local function bucket_of(queue, rate, bucket_size)
  local tokens, counted_at = unpack(call('HMGET', BUCKET .. queue, 'tokens', 'counted_at'))
  -- Rounding may have made the number of tokens slightly negative.
  tokens, counted_at = tonumber(tokens), number_of(counted_at)
  if not counted_at or not tokens or not number_of(tokens + 0.5) then
    return { tokens = bucket_size, rate = rate, counted_at = now }
  end
  if counted_at > now + MAX_SKEW_SECONDS then
    counted_at = now
    call('HSET', BUCKET .. queue, 'counted_at', instant(now))
  end
  local passed = math.max(0, now - counted_at)
  return { tokens = math.min(bucket_size, tokens + passed * rate), rate = rate, counted_at = counted_at + passed }
end

-- A worker returns surplus tasks within this time, but their tokens are not refunded.
local GIVEN_BACK_AFTER_SECONDS = 0.05

-- Returns how many tasks the queue may give this worker now, the queue's bucket, and whether a limit applies.
local function allowance(queue, settings)
  local rate = settings.rate
  if rate == 0 or settings.is_disabled == '1' or call('SISMEMBER', PAUSED, queue) == 1 then
    return 0
  end
  local bucket = bucket_of(queue, rate, settings.bucket_size)
  local grant = math.min(wanted, math.floor(bucket.tokens + 1e-6))
  -- A rate counts as a limit if it is too slow to replace the tokens of returned tasks in time.
  local binds = grant < wanted or rate * GIVEN_BACK_AFTER_SECONDS < wanted - free
  if settings.max_concurrent then
    bucket.slots = settings.max_concurrent - call('ZCARD', LEASED .. queue)
    grant = math.min(grant, bucket.slots)
    binds = true
  end
  if binds then
    -- If a limit applies, each leased task must start immediately.
    grant = math.min(grant, free)
  end
  return math.max(0, grant), bucket, binds
end

local function settings_of(queue)
  local rate, bucket_size, max_concurrent, group, is_disabled = unpack(
    call('HMGET', SETTINGS .. queue, 'rate', 'bucket_size', 'max_concurrent', 'group', 'is_disabled'))
  if not rate then
    if is_disabled ~= '1' then
      missing[#missing + 1] = queue
    end
    -- A disabled queue is not in the last upload, so uploading again would not help.
    return nil
  end
  local found = { rate = number_of(rate), bucket_size = number_of(bucket_size), group = group or 'default',
    is_disabled = is_disabled }
  if max_concurrent and max_concurrent ~= '' then
    found.max_concurrent = number_of(max_concurrent)
  end
  if not found.rate or not found.bucket_size or (max_concurrent and max_concurrent ~= '' and not found.max_concurrent) then
    move_aside(SETTINGS .. queue, 'has a number that cannot be read')
    missing[#missing + 1] = queue
    return nil
  end
  return found
end

-- Returns whether this is the right list for the task. If it is not, moves the task to the right list.
local function belongs(queue, list, id, target)
  local own, group = ready_list_of(queue, target)
  if own == list then
    return true
  end
  call('RPUSH', own, id)
  call('SADD', QUEUES, own)
  wake_group(group)
  return false
end

local SEEN = { eta = true, data = true, status = true, target = true, dead_at = true, first_try_at = true }

-- Extract the fields that this script needs from a reply of HGETALL.
local function seen_in(flat)
  local fields = {}
  for index = 1, #flat, 2 do
    if SEEN[flat[index]] then
      fields[flat[index]] = flat[index + 1]
    end
  end
  return fields
end

-- All task ids of the current queue begin with this prefix.
local prefix

-- Lease one ready task by its id. Returns whether it can run. Without `list`, it may run from any list.
local function lease(queue, list, group, id, entries)
  local record = try('HGETALL', RECORD .. id)
  if record.err then
    record = call('HGETALL', RECORD .. id)
  end
  local fields = seen_in(record)
  if not fields.eta and not fields.data then
    -- The record no longer exists, or it has only fields that a stock worker wrote after the task had ended.
    if not dead_letter_if_damaged(id, queue, nil, now) then
      delete_record(id)
      finish_lost_record(id, now)
    end
    return false
  elseif fields.status ~= 'queued' then
    -- This is a duplicate entry. The task has already moved elsewhere.
    dead_letter_if_damaged(id, queue, fields.status, now)
    return false
  elseif not fields.eta then
    make_dead_letter(id, queue, pairs_of(record), now, 'a plain RQ job: this queue takes tasks of taskqueue.add only')
    return false
  elseif string.sub(id, 1, #prefix) ~= prefix then
    dead_letter_damaged(id, queue, 'its id is not valid in this queue', now)
    return false
  elseif list and (fields.target or list ~= READY .. queue) and not belongs(queue, list, id, fields.target) then
    return false
  end
  number = number + 1
  local lease_id = token .. '.' .. number
  if fields.dead_at then
    -- A dead letter that runs again gets all its retries back.
    leave_dead_group(id)
    call('HDEL', RECORD .. id, 'dead_at', 'error', 'failures', 'unreached', 'lost', 'crashes', 'suspect',
      'first_try_at', 'previous_response')
    call('PERSIST', RECORD .. id)
    call('ZREM', DEAD .. queue, id)
    fields.first_try_at = nil
    record = call('HGETALL', RECORD .. id)
  end
  if fields.first_try_at then
    sure_call('HSET', RECORD .. id, 'status', 'started', 'lease', lease_id)
  else
    sure_call('HSET', RECORD .. id, 'status', 'started', 'lease', lease_id, 'first_try_at', instant(now))
    record[#record + 1] = 'first_try_at'
    record[#record + 1] = instant(now)
  end
  if group ~= 'default' then
    record[#record + 1] = 'group'
    record[#record + 1] = group
  end
  entries[#entries + 1] = score
  entries[#entries + 1] = id .. ':' .. lease_id
  leased[#leased + 1] = { id, lease_id, record }
  return true
end

-- A task of this group stays in its list but could run now. This worker asks again, or another worker is woken.
local function leave(group)
  if is_asleep then
    more = 1
  else
    wake_group(group)
  end
end

-- Leave a task that must start immediately in its list. This worker begins with that list once a thread is free.
local function leave_for_free_thread(group, list)
  if not is_asleep then
    resume_at_list = resume_at_list or list
  end
  leave(group)
end

-- One call leases at most this many run-now requests, and the others wait for the next call.
local MAX_RUN_NOW = 1000

-- Lease tasks that were requested with "run now". Their queues' limits do not apply. A worker that serves only
-- some queues skips the tasks of other queues.
local function lease_run_now(group)
  local ids = call('LRANGE', RUN_NOW .. group, 0, MAX_RUN_NOW - 1)
  local is_served, are_left = {}, false
  for position = 8 + groups, #ids > 0 and #ARGV or 0 do
    is_served[string.match(ARGV[position], '^[^.]*')] = true
  end
  for _, id in ipairs(ids) do
    local entries, queue = {}, queue_of(id) or ''
    if is_served[queue] and wanted > 0 and free > 0 then
      call('LREM', RUN_NOW .. group, 1, id)
      prefix = queue .. '_'
      if lease(queue, nil, group, id, entries) then
        call('ZADD', LEASED .. queue, unpack(entries))
        wanted, free = wanted - 1, free - 1
      end
    else
      are_left = are_left or is_served[queue]
    end
  end
  if are_left then
    leave_for_free_thread(group, ARGV[8 + groups])
  end
end

-- Lease tasks from one list. Returns how many it leased, the grant, the queue's bucket, and whether a limit applies.
local function lease_from(list, queue, group, settings)
  local grant, bucket, binds = allowance(queue, settings)
  local entries, taken = {}, 0
  prefix = queue .. '_'
  for _, id in ipairs(grant > 0 and call('LPOP', list, grant) or {}) do
    if lease(queue, list, group, id, entries) then
      taken = taken + 1
    end
  end
  if taken > 0 then
    call('ZADD', LEASED .. queue, unpack(entries))
    bucket.tokens = bucket.tokens - taken
    -- Store all digits, because rounding a third of a token would lose a little with each grant.
    call('HSET', BUCKET .. queue, 'tokens', string.format('%.17g', bucket.tokens), 'counted_at',
      instant(bucket.counted_at))
    wanted, free = wanted - taken, free - taken
  end
  return taken, grant, bucket, binds
end

-- Some tasks stay in the list, so make sure that a worker asks for them as soon as one of them may run.
local function leave_rest(list, group, taken, grant, bucket, binds)
  if bucket.tokens + 1e-6 < 1 then
    -- Times are rounded to a microsecond, so add one. A worker that asked too early would ask over and over.
    local due = bucket.counted_at + (1 - bucket.tokens) / bucket.rate + 1e-6
    next_due = math.min(next_due or due, due)
  elseif not binds or grant > taken then
    more = 1
    leave(group)
  elseif not bucket.slots or bucket.slots > taken then
    -- All threads of this worker are busy, so it stops listening. Another worker may have a free thread sooner.
    leave_for_free_thread(group, list)
  end
end

for position = 8, 7 + groups do
  lease_run_now(ARGV[position])
end
for position = 8 + groups, #ARGV do
  local queue, side = string.match(ARGV[position], '^([^.]*)%.?(.*)$')
  local list = READY .. ARGV[position]
  if call('EXISTS', list) == 1 then
    local settings = settings_of(queue)
    local group = side ~= '' and side or settings and settings.group
    if settings and serves[group] then
      if wanted <= 0 then
        more = 1
        leave(group)
      else
        local taken, grant, bucket, binds = lease_from(list, queue, group, settings)
        if bucket and call('EXISTS', list) == 1 then
          leave_rest(ARGV[position], group, taken, grant, bucket, binds)
        end
      end
    end
  end
end
return { leased, next_due and instant(next_due) or '', more, missing, must_promote, resume_at_list or '' }
