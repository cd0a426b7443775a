-- cache_get: reads a consistent snapshot of the values of some keys.
--
-- KEYS: the generation in use and the values' prefix.
-- ARGV: the current time in integer microseconds since the epoch, then the keys.
-- Returns for each key {kind, payload, version, expires_at, stored_at}, or nil if it has no value.
--
-- This is one script, so that the generation cannot change before the values are read.
-- include: cache

local now = tonumber(ARGV[1])
local answer = {}
for index = 2, #ARGV do
  local entry = read_entry(cache_key(ARGV[index]), now)
  answer[index - 1] = entry
    and { entry.kind, entry.payload, entry.version, entry.expires_at, entry.stored_at }
end
for index = 1, #ARGV - 1 do
  answer[index] = answer[index] or false
end
return answer
