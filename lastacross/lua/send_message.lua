-- send_message: append a message to a stream that keeps a limited number, for a limited time.
--
-- KEYS     1 stream
-- ARGV     1 messages to keep, at least  2 seconds to keep them after the newest  3 message
-- Returns  the message's id.
--
-- One script: a stream must not be left without an expiry, and one call is what a message costs.

local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return id
