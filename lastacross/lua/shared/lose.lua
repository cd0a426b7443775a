-- lose: what becomes of a leased task whose worker is gone. Needs keys and fan_in.

local POISON_AFTER = 5
local DEAD_LIFE_SECONDS = 30 * 86400

-- The name of a task that is gone for good stays refused for a while, if its caller chose it.
-- `request`: the one that added it, as add_tasks knows it; nil where that does not matter any more.
local function leave_tombstone(id, seconds, request)
  if seconds then
    call('SET', TOMBSTONE .. id, request or 1, 'EX', seconds)
  end
end

-- `queue`: where it was found; a plain RQ job's id does not tell.
local function bury(id, queue, fields, now, error)
  call('HSET', RECORD .. id, 'status', 'failed', 'dead_at', instant(now), 'error', error)
  local life = tonumber(call('HGET', SETTINGS .. queue, 'dead_letter_seconds') or DEAD_LIFE_SECONDS)
  call('ZADD', DEAD .. queue, instant(now + life), id)
  call('EXPIRE', RECORD .. id, life)
  leave_tombstone(id, fields.tombstone, fields.request)
  if fields.batch then
    settle_member(fields.batch, 'failed', now)
  end
end

-- Give back a task whose lease was lost. `started`: true, false, or nil when nobody knows.
-- Returns 'ready', 'poison' or 'gone'.
local function lose(id, queue, lease, started, now)
  if call('ZREM', LEASED .. queue, id .. ':' .. lease) == 1 then
    wake_for_place(queue)
  end
  local fields = pairs_of(call('HGETALL', RECORD .. id))
  if not fields.status then
    settle_lost_record(id, now)
    return 'gone'
  end
  if fields.status ~= 'started' or (fields.lease ~= lease and fields.lease
      and call('ZSCORE', LEASED .. queue, id .. ':' .. fields.lease)) then
    return 'gone'
  end
  if fields.started == lease and (started == nil or fields.suspect) then
    -- A suspect runs outside of its worker process, which notes the others only.
    started = true
  end
  if started then
    local crashes = tonumber(fields.crashes or 0) + 1
    call('HSET', RECORD .. id, 'crashes', crashes, 'lost', tonumber(fields.lost or 0) + 1, 'suspect', 1)
    if crashes >= POISON_AFTER then
      bury(id, queue, fields, now, 'poison: its worker process ended ' .. crashes .. ' times in a row while it ran')
      return 'poison'
    end
  elseif started == nil then
    -- It may have been what ended the worker: it runs alone, but nothing is held against it.
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
  make_ready(queue, id, fields.target)
  return 'ready'
end
