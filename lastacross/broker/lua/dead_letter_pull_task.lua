-- dead_letter_pull_task: make a just leased pull task that the client cannot read a dead letter.
--
-- ARGV     1 now  2 queue  3 the task's name  4 the reason
-- Returns  1
-- States   dead-letter: leased → dead
-- include: keys
-- include: fan_in
-- include: lose
-- include: pull

local queue, name = ARGV[2], ARGV[3]
local id = queue .. '_' .. name
remove_pull_task(queue, name, call('HGET', RECORD .. id, 'tag'))
dead_letter_damaged(id, queue, ARGV[4], tonumber(ARGV[1]))
return 1
