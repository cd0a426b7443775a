-- send_message: append messages to a stream that keeps a limited number, for a limited time.
--
-- KEYS     1 stream
-- ARGV     1 messages to keep, at least  2 seconds to keep them after the newest  3… messages
-- Returns  the last message's id.
--
-- One script: a stream must not be left without an expiry, and one call is what messages cost.
-- include: call

local id
for number = 3, #ARGV do
  id = call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[number])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return id
