-- look_at_longtasks: the tasks of some long tasks in their queues, and values of the cache, at one instant.
--
-- KEYS     1 the generation in use  2 prefix of the values  3… records of tasks
-- ARGV     1 now (integer microseconds since the epoch)  2 how many fields  3… their names  then keys
-- Returns  {for each record its fields, as HMGET, for each key what cache_get returns}
--
-- include: cache

local now = tonumber(ARGV[1])
local first = 3 + tonumber(ARGV[2])
local records, values = {}, {}
for index = 3, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[index], unpack(ARGV, 3, first - 1))
  -- No hash: as if it had no fields. The lease that meets it says what is wrong.
  for place = 1, fields.err and first - 3 or 0 do
    fields[place] = false
  end
  fields.err = nil
  records[index - 2] = fields
end
for index = first, #ARGV do
  local entry = read_entry(cache_key(ARGV[index]), now)
  values[index - first + 1] = entry
      and { entry.kind, entry.payload, entry.version, entry.expires_at, entry.stored_at }
    or false
end
return { records, values }
