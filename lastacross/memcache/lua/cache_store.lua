-- cache_store: stores values if the policy allows it.
--
-- KEYS: the generation in use and the values' prefix.
-- ARGV: the current time, expires_at, the policy (set, add, replace or cas), the version to write, then for
-- each value: its key, its kind, its payload, and the version that cas expects or ''. Times are integer
-- microseconds since the epoch.
-- Returns for each value 1 if it was stored, otherwise 0.
--
-- This is one script, so that no other client can change a value between its comparison and the write.
-- include: cache

local now, expires_at, policy, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function allows(entry, expected)
  if policy == 'set' then
    return true
  elseif policy == 'add' then
    return entry == nil
  elseif entry == nil or entry.kind == 'L' then
    return false
  end
  return policy == 'replace' or entry.version == expected
end

local answer = {}
for index = 5, #ARGV, 4 do
  local name = cache_key(ARGV[index])
  local entry = policy ~= 'set' and read_entry(name, tonumber(now)) or nil
  local is_stored = allows(entry, ARGV[index + 3])
  if is_stored then
    write_entry(name, now, ARGV[index + 1], expires_at, version, ARGV[index + 2])
  end
  answer[#answer + 1] = is_stored and 1 or 0
end
return answer
