-- drop_letters: take tasks that are no longer dead letters out of a group.
--
-- ARGV: the group, then at most 100 task ids.
-- Returns the number of ids that were in the group.
-- include: keys
-- include: dead_groups

local removed = call('ZREM', DEAD_GROUP .. ARGV[1], unpack(ARGV, 2))
count_group(ARGV[1])
return removed
