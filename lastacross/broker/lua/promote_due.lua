-- promote_due: make scheduled tasks ready once their eta has passed.
--
-- ARGV: the current time, the maximum number of tasks to move per queue, then the queues.
-- Returns the number of promoted tasks, and the eta of the next scheduled task in these queues or ''.
-- States   promote: scheduled → ready
-- include: keys
-- include: fan_in
-- include: lose
-- include: due

return { promote_of_all({ unpack(ARGV, 3) }, tonumber(ARGV[1]), ARGV[2]) }
