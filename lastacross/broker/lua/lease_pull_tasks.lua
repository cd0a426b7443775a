-- lease_pull_tasks: lease due tasks of a pull queue, ordered by eta and name.
--
-- ARGV: the current time, the queue, the length of the lease in seconds, the maximum number of tasks, the selection,
-- the tag and the request. The selection is '' for all tasks, 'tag' for one tag, or 'oldest' for the oldest task's
-- tag (for untagged tasks if the oldest task has no tag).
-- Returns two lists: the leased tasks, each as {name, eta = end of the lease, leases so far, tag or '', body},
-- and the names of tasks that became dead letters because their leases were used up.
-- States   lease: ready → leased, dead
--
-- Because this is one script, two concurrent clients lease different tasks.
-- A client that loses the reply retries the call, and the retry returns the same tasks.
-- include: keys
-- include: fan_in
-- include: lose
-- include: pull

-- App Engine's limit for one call. The remaining tasks can be leased by the next call.
local MAX_BYTES = 32 * 1024 * 1024
local MAX_TAKEN_OVER = 100

local now, queue, limit, request = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[4]), ARGV[7]
local eta = instant(now + tonumber(ARGV[3]))
local queue_retry, is_disabled = unpack(call('HMGET', SETTINGS .. queue, 'retry', 'is_disabled'))
if is_disabled == '1' then
  return { {}, {} }
end

-- RQ's list contains tasks that `rq requeue` requeued, or that were added when this was still a push queue.
local function take_over(id)
  local fields = pairs_of(call('HGETALL', RECORD .. id))
  if fields.status ~= 'queued' then
    dead_letter_if_damaged(id, queue, fields.status, now)
    return
  elseif not fields.eta then
    make_dead_letter(id, queue, fields, now, 'a plain RQ job: this queue takes tasks of taskqueue.add only')
    return
  elseif not tonumber(fields.eta) then
    dead_letter_damaged(id, queue, 'its eta is not a number', now)
    return
  end
  restore_pull_task(queue, id, fields.tag, fields.eta)
end

-- Find the tasks that an earlier attempt of this request leased. Their leases all end at the same time and
-- have the request's id.
local function granted_before()
  local tasks = {}
  for _, name in ipairs(call('ZRANGEBYSCORE', PULL_LEASED .. queue, eta, eta)) do
    local lease, leases, tag, body = unpack(
      call('HMGET', RECORD .. queue .. '_' .. name, 'lease', 'leases', 'tag', 'body'))
    if lease == request then
      tasks[#tasks + 1] = { name, eta, number_of(leases) or 1, tag or '', body or '' }
    end
  end
  return tasks
end

local function eligible(set)
  return call('ZRANGEBYSCORE', set, '-inf', '(' .. ARGV[1], 'LIMIT', 0, limit)
end

-- Returns the names of the tasks to lease, the set that contains them, and whether to skip tagged tasks.
local function candidates()
  local set = ARGV[5] == 'tag' and tag_set(queue, ARGV[6]) or PULL .. queue
  local names = eligible(set)
  if ARGV[5] ~= 'oldest' or #names == 0 then
    return names, set, false
  end
  local tagged = tag_set(queue, call('HGET', RECORD .. queue .. '_' .. names[1], 'tag'))
  if not tagged then
    return names, set, true
  end
  return eligible(tagged), tagged, false
end

-- Returns how many leases a task may have (nil = no limit), and whether the stored limit is unreadable.
-- A task fails only when all its limits are exceeded, and a pull task never exceeds task_age_limit. So if that
-- limit is set, task_retry_limit never ends a pull task.
local function leases_allowed(retry)
  if not retry or retry == '' then
    return nil, false
  end
  local can_be_read, values = pcall(cjson.decode, retry)
  if not can_be_read or type_of(values) ~= 'table' then
    return nil, true
  end
  local task_retry_limit, task_age_limit = unpack(values, 1, 2)
  if task_age_limit ~= cjson.null or task_retry_limit == cjson.null then
    return nil, false
  end
  return number_of(task_retry_limit), not number_of(task_retry_limit)
end

for _, id in ipairs(call('LPOP', READY .. queue, MAX_TAKEN_OVER) or {}) do
  take_over(id)
end
local tasks = granted_before()
if #tasks > 0 then
  return { tasks, {} }
end

local names, set, is_untagged_only = candidates()
local limit_of_queue = leases_allowed(queue_retry)
local dead_names, moves, moves_by_tag, bytes = {}, {}, {}, 0

local function dead_letter_unreadable(id, name, tag, why)
  remove_pull_task(queue, name, tag)
  dead_letter_damaged(id, queue, why, now)
  dead_names[#dead_names + 1] = name
end

-- Lease one task. Returns whether the reply has room for more tasks.
local function lease(name)
  local id = queue .. '_' .. name
  local found, body, tag, leases, retry, tombstone, added_by = unpack(
    call('HMGET', RECORD .. id, 'eta', 'body', 'tag', 'leases', 'retry', 'tombstone', 'request'))
  tag, leases = tag ~= '' and tag, number_of(leases or 0)
  -- The task's own retry options replace all of the queue's options.
  local allowed, is_retry_damaged = limit_of_queue, false
  if retry then
    allowed, is_retry_damaged = leases_allowed(retry)
  end
  if not found and call('EXISTS', RECORD .. id, ASIDE .. RECORD .. id) == 0 then
    -- Another tool deleted the record.
    call('ZREM', set, name)
    remove_pull_task(queue, name)
  elseif not found or not leases or is_retry_damaged then
    call('ZREM', set, name)
    dead_letter_unreadable(id, name, tag, not found and 'its eta, or all of its record, is missing'
      or not leases and 'its number of leases is damaged' or 'its retry options cannot be read')
  elseif is_untagged_only and tag then
    return true
  elseif allowed and leases >= allowed then
    remove_pull_task(queue, name, tag)
    make_dead_letter(id, queue, { tombstone = tombstone, request = added_by }, now,
      'leased ' .. leases .. ' times without being deleted: task_retry_limit is ' .. allowed)
    dead_names[#dead_names + 1] = name
  else
    bytes = bytes + #(body or '')
    if bytes > MAX_BYTES and #tasks > 0 then
      return false
    end
    call('HSET', RECORD .. id, 'eta', eta, 'leases', leases + 1, 'lease', request)
    tasks[#tasks + 1] = { name, eta, leases + 1, tag or '', body or '' }
    moves[#moves + 1] = eta
    moves[#moves + 1] = name
    if tag then
      local others = moves_by_tag[tag] or {}
      moves_by_tag[tag] = others
      others[#others + 1] = eta
      others[#others + 1] = name
    end
  end
  return true
end

for _, name in ipairs(names) do
  if not lease(name) then
    break
  end
end
if #moves > 0 then
  call('ZADD', PULL .. queue, unpack(moves))
  call('ZADD', PULL_LEASED .. queue, unpack(moves))
end
for tag, others in pairs(moves_by_tag) do
  call('ZADD', tag_set(queue, tag), unpack(others))
end
return { tasks, dead_names }
