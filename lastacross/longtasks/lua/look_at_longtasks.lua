-- look_at_longtasks: reads a consistent snapshot of long tasks' queue records and cached values.
--
-- KEYS: the generation in use, the values' prefix, then the tasks' records.
-- ARGV: the current time in integer microseconds since the epoch, the number of fields, their names, then the
-- cache keys.
-- Returns each record's fields as HMGET returns them, and for each cache key the result of cache_get.
--
-- include: cache

local now = tonumber(ARGV[1])
local first = 3 + tonumber(ARGV[2])
local records, values = {}, {}
for index = 3, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[index], unpack(ARGV, 3, first - 1))
  -- A key that is not a hash counts as empty; the task's next lease reports the problem.
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
