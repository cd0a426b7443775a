-- cache: stores and reads memcache values, for the cache_* scripts.
--
-- KEYS: the generation in use (a string) and the values' prefix.
-- An entry is one string, '<kind> <expires_at> <stored_at> <version>\n<payload>'. Times are integer
-- microseconds since the epoch. An entry of kind L is not a value but a lock against `add`.
--
-- Expiry is decided by comparing with the caller's `now`; Redis's own TTL only frees the memory.

-- Another program may have written a key of a different type there, which the cache treats as missing.
local function text_at(name)
  local text = redis.pcall('GET', name)
  return type(text) == 'string' and text or nil
end

local generation = text_at(KEYS[1]) or '0'

local function cache_key(key)
  return KEYS[2] .. generation .. ':' .. key
end

local function read_entry(name, now)
  local text = text_at(name)
  if not text then
    return nil
  end
  local kind, expires_at, stored_at, version, start = string.match(text, '^(%a) (%d+) (%d+) (%x+)\n()')
  if not kind or tonumber(expires_at) <= now then
    return nil
  end
  return {
    kind = kind,
    expires_at = expires_at,
    stored_at = stored_at,
    version = version,
    payload = string.sub(text, start),
  }
end

-- expires_at and now are the original strings from ARGV, because Lua would print only 14 digits of a number.
local function write_entry(name, now, kind, expires_at, version, payload)
  local ttl_ms = math.ceil((tonumber(expires_at) - tonumber(now)) / 1000)
  if ttl_ms <= 0 then
    redis.call('UNLINK', name)
    return
  end
  local head = kind .. ' ' .. expires_at .. ' ' .. now .. ' ' .. version .. '\n'
  redis.call('SET', name, head .. payload, 'PX', string.format('%.0f', ttl_ms))
end
