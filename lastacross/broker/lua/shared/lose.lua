-- lose: create dead letters, and recover leased tasks whose worker has died. Needs keys and fan_in.
--
-- States   dead-letter: ready, scheduled, leased → dead
-- include: history
-- include: dead_groups

local POISON_AFTER = 5
local DEAD_LIFE_SECONDS = 30 * 86400

-- Leave a tombstone, so that a chosen name is refused for a while after its task has ended.
-- `request` identifies the request that added the task, as in add_tasks; it is nil when it no longer matters.
local function leave_tombstone(id, seconds, request)
  if seconds then
    -- A damaged tombstone does not block any name.
    try('SET', TOMBSTONE .. id, request or 1, 'EX', seconds)
  end
end

local MAX_DEAD_LIFE_SECONDS = 100 * 366 * 86400

local function dead_life_of(queue)
  local seconds = number_of(call('HGET', SETTINGS .. queue, 'dead_letter_seconds') or DEAD_LIFE_SECONDS)
  return math.min(math.floor(seconds or DEAD_LIFE_SECONDS), MAX_DEAD_LIFE_SECONDS)
end

-- Make a task a dead letter. `queue` is where the task was found, because a plain RQ job's id does not contain it.
local function make_dead_letter(id, queue, fields, now, error)
  call('HSET', RECORD .. id, 'status', 'failed', 'dead_at', instant(now), 'error', error)
  local life = dead_life_of(queue)
  call('ZADD', DEAD .. queue, instant(now + life), id)
  call('EXPIRE', RECORD .. id, life)
  call('EXPIRE', HISTORY .. id, life)
  join_dead_group(id, instant(now), instant(now + life))
  leave_tombstone(id, fields.tombstone, fields.request)
  if fields.batch and split_member(fields.batch) then
    finish_member(fields.batch, 'failed', now)
  else
    finish_lost_record(id, now, 'failed')
  end
end

-- Turn an unreadable record into a dead letter, with the reason. Add any missing fields that RQ's tools and ours
-- expect in every record. `why` begins with 'its'.
local function dead_letter_damaged(id, queue, why, now)
  local key = RECORD .. id
  for name, value in pairs({ origin = queue, eta = instant(now), description = '' }) do
    call('HSETNX', key, name, value)
  end
  call('HDEL', key, 'lease', 'started')
  call('ZREM', SCHEDULED .. queue, id)
  local error = 'damaged: ' .. why
  make_dead_letter(id, queue, pairs_of(call('HGETALL', key)), now, error)
  note_damage('the task ' .. id .. ' is a dead letter: ' .. error)
end

-- Add 1 to a field of a record. If the field is not a number, make the task a dead letter and return false.
local function increase(id, queue, field, now)
  if type_of(try('HINCRBY', RECORD .. id, field, 1)) == 'number' then
    return true
  end
  dead_letter_damaged(id, queue, 'its ' .. field .. ' is not a whole number', now)
  return false
end

-- Returns the type of a task's record that was moved aside; nil if there is none.
local function former_type(id)
  local found = call('TYPE', ASIDE .. RECORD .. id).ok
  return found ~= 'none' and found or nil
end

-- Handle a record that is missing, or not in the place that its status implies. Returns whether it became a
-- dead letter.
local function dead_letter_if_damaged(id, queue, status, now)
  local former = not status and former_type(id)
  if former then
    dead_letter_damaged(id, queue, 'its record was a ' .. former .. ', not a hash', now)
  elseif status and not is_status(status) then
    dead_letter_damaged(id, queue, "its status is '" .. string.sub(status, 1, 40) .. "', which no task has", now)
  elseif not status and call('HEXISTS', RECORD .. id, 'data') == 1 then
    dead_letter_damaged(id, queue, 'its status is missing', now)
  else
    return false
  end
  return true
end

-- Recover a task whose lease was lost, and return it to the front of its list. `started` is true or false, or nil if
-- that is unknown. If `is_blameless`, its process did not die on its own, so no crash is counted.
-- Returns 'ready', 'poison', 'damaged' or 'gone'.
local function lose(id, queue, lease, started, now, is_blameless)
  if call('ZREM', LEASED .. queue, id .. ':' .. lease) == 1 then
    wake_for_slot(queue)
  end
  local fields = pairs_of(call('HGETALL', RECORD .. id))
  if dead_letter_if_damaged(id, queue, fields.status, now) then
    return 'damaged'
  elseif not fields.status then
    finish_lost_record(id, now)
    return 'gone'
  end
  if fields.status ~= 'started' or (fields.lease ~= lease and fields.lease
      and call('ZSCORE', LEASED .. queue, id .. ':' .. fields.lease)) then
    return 'gone'
  end
  if fields.started == lease and (started == nil or fields.suspect) then
    -- A suspect runs outside its worker process, which records only the starts of other tasks.
    started = true
  end
  if started then
    local is_whole = is_blameless or increase(id, queue, 'crashes', now)
    if not is_whole or not increase(id, queue, 'lost', now) then
      return 'damaged'
    end
    local crashes = tonumber(call('HGET', RECORD .. id, 'crashes')) or 0
    call('HSET', RECORD .. id, 'suspect', 1)
    note_attempt(id, cjson.encode({ ended_at = now, lease = lease }), fields.history, HISTORY_SECONDS)
    if crashes >= POISON_AFTER then
      make_dead_letter(id, queue, fields, now, 'poison: its worker process ended ' .. crashes .. ' times in a row while it ran')
      return 'poison'
    end
  elseif started == nil then
    -- The task may have crashed the worker, so it runs alone next, but no crash is counted against it.
    call('HSET', RECORD .. id, 'suspect', 1)
  elseif not fields.failures and not fields.lost then
    call('HDEL', RECORD .. id, 'first_try_at')
  end
  if drop_if_cancelled(id, fields.batch, now) then
    leave_tombstone(id, fields.tombstone, fields.request)
    return 'gone'
  end
  call('HSET', RECORD .. id, 'status', 'queued')
  call('HDEL', RECORD .. id, 'lease', 'started')
  make_ready(queue, id, fields.target, 'LPUSH')
  return 'ready'
end

-- Split an entry of the leased tasks into its task id, its lease id, and the lease's number, which increases with
-- each lease of a worker.
local function split_entry(entry)
  local id, lease = string.match(entry, '^([^:]*):?(.*)$')
  return id, lease, tonumber(string.match(lease, '%.(%d+)$')) or 0
end

-- Recover tasks so that they run again in the order in which they were leased. Each is pushed to the front of its list,
-- so the one to run first must come last. Adds each task id and the result of `lose` to `results`.
-- Each loss is { queue = , entry = , started = }. Started tasks run first, because they have waited the longest.
-- If there are more than `limit`, only the `limit` tasks that will run last are recovered.
local function lose_all(losses, now, results, is_blameless, limit)
  for _, loss in ipairs(losses) do
    loss.id, loss.lease, loss.number = split_entry(loss.entry)
  end
  table.sort(losses, function(one, other)
    if (one.started or false) ~= (other.started or false) then
      return other.started or false
    end
    if one.number ~= other.number then
      return one.number > other.number
    end
    return one.entry > other.entry
  end)
  for position = 1, math.min(#losses, limit or #losses) do
    local loss = losses[position]
    if loss.lease == '' then
      call('ZREM', LEASED .. loss.queue, loss.entry)
    end
    results[#results + 1] = loss.id
    results[#results + 1] = lose(loss.id, loss.queue, loss.lease, loss.started, now, is_blameless)
  end
end
