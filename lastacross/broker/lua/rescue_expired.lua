-- rescue_expired: make tasks ready again whose leases expired because their worker died or stalled.
--
-- ARGV: the current time in trusted_time's format, the maximum number of tasks to move per queue, then the queues.
-- Returns a flat list: for each ended lease, the task's id and 'ready', 'poison', 'damaged' or 'gone'.
-- States   rescue: leased → ready, dead, gone
-- include: keys
-- include: fan_in
-- include: lose
-- include: server_time
-- include: rescue

local now, is_trusted = trusted_time(ARGV[1])
return is_trusted and rescue_of_all({ unpack(ARGV, 3) }, now, ARGV[2]) or {}
