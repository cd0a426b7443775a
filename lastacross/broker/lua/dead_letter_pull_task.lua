-- dead_letter_pull_task: turn a pull task into a dead letter because the client that leased it cannot read it.
--
-- ARGV: the current time, the queue, the task's name and the reason.
-- Returns 1.
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
