-- rescue_expired: make tasks ready again whose leases expired because their worker died or stalled.
--
-- ARGV     1 now  2 maximum number to move per queue  3… queues
-- Returns  flat: task id, 'ready' | 'poison' | 'damaged' | 'gone', for each lease that was ended
-- States   rescue: leased → ready, dead, gone
-- include: keys
-- include: fan_in
-- include: lose
-- include: rescue

return rescue_of_all({ unpack(ARGV, 3) }, tonumber(ARGV[1]), ARGV[2])
