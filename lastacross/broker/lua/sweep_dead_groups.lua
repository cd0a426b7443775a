-- sweep_dead_groups: correct the groups of dead letters.
--
-- ARGV: the current time, the maximum number of letters to check in this call, the number of the group to start
-- from, and the rank of the letter in it to start from.
-- Returns the group's number and the rank to continue with; 0 and 0 after the last group.
--
-- Letters expire on their own. Workers of the previous release and RQ's tools retry and delete letters without
-- updating the counts; sweep_foreign finds the letters that the previous release created.
-- include: keys
-- include: dead_groups

local limit, number, rank = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local groups = call('HKEYS', DEAD_GROUPS)
table.sort(groups)
for _, group in ipairs(groups) do
  local expired = call('ZRANGEBYSCORE', DEAD_GROUP .. group, '-inf', ARGV[1], 'LIMIT', 0, limit)
  if #expired > 0 then
    call('ZREM', DEAD_GROUP .. group, unpack(expired))
    count_group(group)
  end
end

local function gone_among(ids, group)
  local gone = {}
  for _, id in ipairs(ids) do
    local status, dead_at, known = unpack(call('HMGET', RECORD .. id, 'status', 'dead_at', 'dead_group'))
    if status ~= 'failed' or not dead_at or known ~= group then
      gone[#gone + 1] = id
    end
  end
  return gone
end

local left = limit
while left > 0 and number < #groups do
  local group, asked = groups[number + 1], left
  local ids = call('ZRANGE', DEAD_GROUP .. group, rank, rank + asked - 1)
  local gone = gone_among(ids, group)
  if #gone > 0 then
    call('ZREM', DEAD_GROUP .. group, unpack(gone))
  end
  count_group(group)
  rank, left = rank + #ids - #gone, left - math.max(1, #ids)
  if #ids < asked then
    number, rank = number + 1, 0
  end
end
return number < #groups and { number, rank } or { 0, 0 }
