-- maintain_queues: what each worker does once a second: promote_due, rescue_expired, and a look at the last upload.
--
-- ARGV     1 now  2 the most to move of one queue  3 1 if leases that ran out are to be ended  4… queues
-- Returns  1 and 2 as promote_due  3 as rescue_expired  4 digest, time and version of the last upload
-- States   promote: scheduled → ready
-- States   rescue: leased → ready, dead, gone
--
-- One call, though the steps are independent: an idle worker should hardly be seen.
-- include: keys
-- include: fan_in
-- include: lose
-- include: due
-- include: rescue

local now, most, queues = tonumber(ARGV[1]), ARGV[2], { unpack(ARGV, 4) }
local moved, next_due = promote_of_all(queues, now, most)
local rescued = ARGV[3] == '1' and rescue_of_all(queues, now, most) or {}
return { moved, next_due, rescued, call('HMGET', UPLOAD, 'digest', 'uploaded_at', 'version') }
