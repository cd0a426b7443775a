-- maintain_queues: promote due tasks, rescue expired leases and read the last upload. Workers run it every second.
--
-- ARGV: the current time in trusted_time's format, the maximum number of tasks to move per queue, 1 to end expired
-- leases, then the queues.
-- Returns promote_due's two values, rescue_expired's list, the last upload's digest, time and version, and the
-- server's time in seconds since the epoch, so that workers soon notice if its clock is changed.
-- States   promote: scheduled → ready
-- States   rescue: leased → ready, dead, gone
--
-- The three steps are independent, but a single call keeps an idle worker's load on Redis low.
-- include: keys
-- include: fan_in
-- include: lose
-- include: due
-- include: server_time
-- include: rescue

local limit, queues = ARGV[2], { unpack(ARGV, 4) }
local now, is_trusted = trusted_time(ARGV[1])
local moved, next_due = promote_of_all(queues, now, limit)
local rescued = ARGV[3] == '1' and is_trusted and rescue_of_all(queues, now, limit) or {}
local seconds, microseconds = unpack(call('TIME'))
return { moved, next_due, rescued, call('HMGET', UPLOAD, 'digest', 'uploaded_at', 'version'),
  string.format('%d.%06d', seconds, microseconds) }
