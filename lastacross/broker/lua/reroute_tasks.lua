-- reroute_tasks: move ready tasks from lists that no worker may serve to the right lists.
--
-- ARGV: the maximum number of entries to check at each end and in the middle of a list, the number of entries
-- in the middle that earlier calls checked, then the queues.
-- Returns the number of moved tasks.
-- States   reroute: ready, scheduled → ready, scheduled
--
-- A lease moves misplaced tasks only in lists that its worker serves. Three cases need this script:
-- - `rq requeue` puts another service's task into the queue's list while the queue has no workers of its own.
-- - A service no longer exists, so no worker serves its list.
-- - A queue that used to be a pull queue has push tasks that were leased but not deleted. Only pull leases
--   see them.
-- include: keys
-- include: pull

local limit, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
local sent = 0

-- Cache the list for each target, because thousands of tasks share a few targets ('' = no target).
local list_of_target = {}

local function ready_list_for(queue, target)
  local key = queue .. '.' .. (target or '')
  list_of_target[key] = list_of_target[key] or ready_list_of(queue, target)
  return list_of_target[key]
end

-- The sign of `count` tells LREM at which end to begin.
local function reroute(queue, list, first, last, count)
  for _, id in ipairs(call('LRANGE', list, first, last)) do
    local target = call('HGET', RECORD .. id, 'target')
    if (target or list ~= READY .. queue) and ready_list_for(queue, target) ~= list
      and call('LREM', list, count, id) == 1 then
      make_ready(queue, id, target)
      sent = sent + 1
    end
  end
end

-- A leased task becomes ready only when its lease ends, because its client may delete it until then.
local function deliver_again(queue, name)
  local id = queue .. '_' .. name
  local status, eta, tag, target, description = unpack(
    call('HMGET', RECORD .. id, 'status', 'eta', 'tag', 'target', 'description'))
  if not description or string.sub(description, 1, 5) == 'PULL ' then
    return
  end
  remove_pull_task(queue, name, tag)
  if status == 'scheduled' then
    call('HDEL', RECORD .. id, 'lease', 'leases')
    -- If the eta is unreadable, the next lease reports it.
    schedule(queue, id, number_of(eta) and eta or 0, target or nil)
  end
  sent = sent + 1
end

for position = 3, #ARGV do
  local queue = ARGV[position]
  local pulled = call('ZCARD', PULL .. queue)
  if pulled > 0 and call('HGET', SETTINGS .. queue, 'mode') == 'push' then
    for _, name in ipairs(call('ZRANGE', PULL .. queue, seen % pulled, seen % pulled + limit - 1)) do
      deliver_again(queue, name)
    end
  end
  for _, list in ipairs(ready_lists_of(queue)) do
    local middle = call('LLEN', list) - 2 * limit
    reroute(queue, list, 0, limit - 1, 1)
    if middle > -limit then
      reroute(queue, list, -limit, -1, -1)
    end
    if middle > 0 then
      local first = limit + seen % math.min(middle, MAX_SEARCH_LENGTH)
      reroute(queue, list, first, first + limit - 1, 1)
    end
  end
end
wake_for_all_scheduled()
return sent
