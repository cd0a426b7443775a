-- reroute_tasks: ready tasks that wait where nobody may look for them go to where they belong.
--
-- ARGV     1 the most to look at, at either end and in the middle of a list
--          2 how many of the middle earlier calls have looked at  3… queues
-- Returns  how many were sent on
-- States   reroute: ready, scheduled → ready, scheduled
--
-- A lease sends on what it meets in a list that its worker serves. But the workers of a queue's own service
-- may all be gone while `rq requeue` puts a task of another one into its list; and a list of tasks for a
-- service that there is no more has no workers at all. And a queue that was a pull queue for a while has
-- push tasks where only its leases look: those that somebody leased then, and has not deleted.
-- include: keys
-- include: pull

local most, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
local sent = 0

-- Thousands of tasks, and few places: '' stands for tasks without a target.
local places = {}

local function place_for(queue, target)
  local key = queue .. '.' .. (target or '')
  places[key] = places[key] or place_of(queue, target)
  return places[key]
end

-- `count`: from which end LREM looks for it.
local function look_at(queue, list, first, last, count)
  for _, id in ipairs(call('LRANGE', list, first, last)) do
    local target = call('HGET', RECORD .. id, 'target')
    if (target or list ~= READY .. queue) and place_for(queue, target) ~= list
      and call('LREM', list, count, id) == 1 then
      make_ready(queue, id, target)
      sent = sent + 1
    end
  end
end

-- At the end of its lease, if somebody has it: who still works on it may delete it until then.
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
    -- The lease that meets a damaged eta says so.
    schedule(queue, id, number_of(eta) and eta or 0, target or nil)
  end
  sent = sent + 1
end

for position = 3, #ARGV do
  local queue = ARGV[position]
  local pulled = call('ZCARD', PULL .. queue)
  if pulled > 0 and call('HGET', SETTINGS .. queue, 'mode') == 'push' then
    for _, name in ipairs(call('ZRANGE', PULL .. queue, seen % pulled, seen % pulled + most - 1)) do
      deliver_again(queue, name)
    end
  end
  for _, list in ipairs(places_of(queue)) do
    local middle = call('LLEN', list) - 2 * most
    look_at(queue, list, 0, most - 1, 1)
    if middle > -most then
      look_at(queue, list, -most, -1, -1)
    end
    if middle > 0 then
      local first = most + seen % math.min(middle, LONGEST_SEARCH)
      look_at(queue, list, first, first + most - 1, 1)
    end
  end
end
wake_for_all_scheduled()
return sent
