-- lease_tasks: give a worker ready tasks of its queues, as many as their limits allow.
--
-- KEYS     as in shared/keys
-- ARGV     1 now  2 lease seconds  3 the worker's lease token  4 number of its next lease
--          5 tasks wanted  6 threads free  7 the worker's group  8… queues, in the order to serve them
-- Returns  1 the tasks, each {task id, lease id, record as HGETALL gives it}
--          2 the instant at which a throttled queue has a token again, or ''
--          3 1 if a queue has more that could be leased now
--          4 the queues whose settings are missing (Redis was emptied): upload them and call again
--          5 1 if a marker asked to look at the scheduled tasks as well
--
-- One script: tokens and places are counted at the moment of the grant, for all machines together.
-- include: keys
-- include: fan_in
-- include: lose

if call('EXISTS', SUSPENDED) == 1 then
  return { {}, '', 0, {}, 0 }
end

local now, lease_seconds, token, number = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local wanted, free = tonumber(ARGV[5]), tonumber(ARGV[6])
local score = instant(now + lease_seconds + LEASE_SHIFT)
local leased, missing, next_due, more = {}, {}, nil, 0
-- Whoever looks takes the marker: a busy worker does not wait for one.
local marker = call('LPOP', WAKEUP .. ARGV[7])

-- Machines agree on the time to a few milliseconds; a bucket counted later than this was counted
-- before the server's clock was set back.
local LARGEST_SKEW_SECONDS = 10

-- The queue's bucket at this moment. Its instant never goes back, or machines whose clocks differ a
-- little would be given the difference in tokens each time they take turns.
local function bucket_of(queue, rate, bucket_size)
  local tokens, counted_at = unpack(call('HMGET', BUCKET .. queue, 'tokens', 'counted_at'))
  if not tokens then
    return { tokens = bucket_size, rate = rate, counted_at = now }
  end
  tokens, counted_at = tonumber(tokens), tonumber(counted_at)
  if counted_at > now + LARGEST_SKEW_SECONDS then
    counted_at = now
    call('HSET', BUCKET .. queue, 'counted_at', instant(now))
  end
  local passed = math.max(0, now - counted_at)
  return { tokens = math.min(bucket_size, tokens + passed * rate), rate = rate, counted_at = counted_at + passed }
end

-- How many tasks the queue may hand out to this worker now, its bucket, and whether a limit binds.
local function allowance(queue)
  local rate, bucket_size, most = unpack(call('HMGET', SETTINGS .. queue, 'rate', 'bucket_size', 'max_concurrent'))
  if not rate then
    missing[#missing + 1] = queue
    return 0
  end
  rate = tonumber(rate)
  if rate == 0 or call('SISMEMBER', PAUSED, queue) == 1 then
    return 0
  end
  local bucket = bucket_of(queue, rate, tonumber(bucket_size))
  local grant = math.min(wanted, math.floor(bucket.tokens + 1e-6))
  local binds = grant < wanted
  if most and most ~= '' then
    bucket.places = tonumber(most) - call('ZCARD', LEASED .. queue)
    grant = math.min(grant, bucket.places)
    binds = true
  end
  if binds then
    -- Where a limit binds, a task that is leased must start at once.
    grant = math.min(grant, free)
  end
  return math.max(0, grant), bucket, binds
end

-- Lease one ready id. Returns whether it was a task that can run.
local function lease(queue, id, entries)
  local record = call('HGETALL', RECORD .. id)
  local fields = pairs_of(record)
  if not fields.eta and not fields.data then
    -- Gone, or but what a stock worker noted on a task after its end.
    call('DEL', RECORD .. id)
    settle_lost_record(id, now)
    return false
  elseif fields.status ~= 'queued' then
    -- A second entry of a task that is elsewhere already.
    return false
  elseif not fields.eta then
    bury(id, queue, fields, now, 'a plain RQ job: this queue takes tasks of taskqueue.add only')
    return false
  end
  number = number + 1
  local lease_id = token .. '.' .. number
  if fields.dead_at then
    -- A dead letter run again has its retries before it again.
    call('HDEL', RECORD .. id, 'dead_at', 'error', 'failures', 'lost', 'crashes', 'suspect', 'first_try_at',
      'previous_response')
    call('PERSIST', RECORD .. id)
    call('ZREM', DEAD .. queue, id)
    fields.first_try_at = nil
    record = call('HGETALL', RECORD .. id)
  end
  if fields.first_try_at then
    call('HSET', RECORD .. id, 'status', 'started', 'lease', lease_id)
  else
    call('HSET', RECORD .. id, 'status', 'started', 'lease', lease_id, 'first_try_at', instant(now))
    record[#record + 1] = 'first_try_at'
    record[#record + 1] = instant(now)
  end
  entries[#entries + 1] = score
  entries[#entries + 1] = id .. ':' .. lease_id
  leased[#leased + 1] = { id, lease_id, record }
  return true
end

for position = 8, #ARGV do
  local queue = ARGV[position]
  if wanted > 0 and call('EXISTS', READY .. queue) == 1 then
    local grant, bucket, binds = allowance(queue)
    local entries, taken = {}, 0
    if grant > 0 then
      for _, id in ipairs(call('LPOP', READY .. queue, grant) or {}) do
        if lease(queue, id, entries) then
          taken = taken + 1
        end
      end
    end
    if taken > 0 then
      call('ZADD', LEASED .. queue, unpack(entries))
      bucket.tokens = bucket.tokens - taken
      call('HSET', BUCKET .. queue, 'tokens', instant(bucket.tokens), 'counted_at', instant(bucket.counted_at))
      wanted, free = wanted - taken, free - taken
    end
    if bucket and call('EXISTS', READY .. queue) == 1 then
      if bucket.tokens + 1e-6 < 1 then
        local due = now + (1 - bucket.tokens) / bucket.rate
        next_due = math.min(next_due or due, due)
      elseif not binds or grant > taken then
        more = 1
        wake(queue)
      elseif taken > 0 and (not bucket.places or bucket.places > taken) then
        -- This worker's threads are full; another's may be free.
        wake(queue)
      end
    end
  elseif wanted <= 0 and call('EXISTS', READY .. queue) == 1 then
    more = 1
    wake(queue)
  end
end
return { leased, next_due and instant(next_due) or '', more, missing, marker == 'scheduled' and 1 or 0 }
