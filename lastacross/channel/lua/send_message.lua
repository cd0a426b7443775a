-- send_message: appends messages to a stream with a limited length and lifetime.
--
-- KEYS: the stream.
-- ARGV: the minimum number of messages to keep, the number of seconds to keep them after the newest one, then
-- the messages.
-- Returns the last message's id.
--
-- This is one script, so that a stream is never left without an expiry and messages cost a single call.
-- include: call

local id
for number = 3, #ARGV do
  id = call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[number])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return id
