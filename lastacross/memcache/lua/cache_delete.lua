-- cache_delete: deletes values and, on request, refuses `add` of their keys for a while.
--
-- KEYS: the generation in use and the values' prefix.
-- ARGV: the current time, locked_until, the version to write, then the keys. Times are integer microseconds
-- since the epoch, and a locked_until of 0 means no lock.
-- Returns for each key 2 if a value was deleted or a lock ended or replaced, or 1 if there was neither. In the
-- latter case no lock is created.
--
-- This is one script, so that no `add` can run between the deletion and the lock.
-- include: cache

local now, locked_until, version = ARGV[1], ARGV[2], ARGV[3]
local answer = {}
for index = 4, #ARGV do
  local name = cache_key(ARGV[index])
  local entry = read_entry(name, tonumber(now))
  if entry == nil then
    answer[#answer + 1] = 1
  else
    if locked_until == '0' then
      redis.call('UNLINK', name)
    else
      write_entry(name, now, 'L', locked_until, version, '')
    end
    answer[#answer + 1] = 2
  end
end
return answer
