-- send_on: ready tasks that wait where nobody may look for them go to where they belong.
--
-- KEYS     as in shared/keys
-- ARGV     1 the most to look at, at either end and in the middle of a list
--          2 how many of the middle earlier calls have looked at  3… queues
-- Returns  how many were sent on
--
-- A lease sends on what it meets in a list that its worker serves. But the workers of a queue's own service
-- may all be gone while `rq requeue` puts a task of another one into its list; and a list of tasks for a
-- service that there is no more has no workers at all.
-- include: keys

local most, seen = tonumber(ARGV[1]), tonumber(ARGV[2])
local sent = 0

-- `count`: from which end LREM looks for it.
local function look_at(queue, list, first, last, count)
  for _, id in ipairs(call('LRANGE', list, first, last)) do
    local target = call('HGET', RECORD .. id, 'target')
    if (target or list ~= READY .. queue) and place_of(queue, target) ~= list
      and call('LREM', list, count, id) == 1 then
      make_ready(queue, id, target)
      sent = sent + 1
    end
  end
end

for position = 3, #ARGV do
  local queue = ARGV[position]
  for _, list in ipairs(places_of(queue)) do
    look_at(queue, list, 0, most - 1, 1)
    look_at(queue, list, -most, -1, -1)
    local middle = call('LLEN', list) - 2 * most
    if middle > 0 then
      local first = most + seen % math.min(middle, LONGEST_SEARCH)
      look_at(queue, list, first, first + most - 1, 1)
    end
  end
end
return sent
