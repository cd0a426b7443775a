-- promote_due: make scheduled tasks ready once their eta has passed.
--
-- ARGV     1 now  2 maximum number to move per queue  3… queues
-- Returns  1 the number of promoted tasks  2 the eta of the next scheduled task in these queues, or ''
-- States   promote: scheduled → ready
-- include: keys
-- include: fan_in
-- include: lose
-- include: due

return { promote_of_all({ unpack(ARGV, 3) }, tonumber(ARGV[1]), ARGV[2]) }
