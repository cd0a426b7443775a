-- cache_get: reads a consistent snapshot of the values of some keys.
--
-- KEYS     1 the generation in use  2 prefix of the values
-- ARGV     1 now (integer microseconds since the epoch)  2… keys
-- Returns  for each key {kind, payload, version, expires_at, stored_at}, or nil if it has no value.
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
