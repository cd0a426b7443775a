-- dump: the whole contents of Redis as a flat list: key, text. Values of one key are joined by \1;
-- a missing one is ''.
--
-- ARGV  the fields of a record to read
local call = redis.call
local FIELDS = ARGV

local function joined(values)
  for place = 1, #values do
    values[place] = values[place] or ''
  end
  return table.concat(values, '\1')
end

local function list(key)
  return joined(call('LRANGE', key, 0, -1))
end

local function sorted(key)
  return joined(call('ZRANGE', key, 0, -1, 'WITHSCORES'))
end

local function hash(key)
  return joined(call('HGETALL', key))
end

local function set(key)
  return joined(call('SMEMBERS', key))
end

local function text(key)
  return call('GET', key)
end

local function batch(key)
  local part = string.match(key, '^lastacross:batch:[^:]*:?(.*)$')
  if part == 'batches' then
    return sorted(key)
  end
  return (part == 'added' or part == 'finished' or part == 'failed') and text(key) or hash(key)
end

local READERS = {
  ['rq:job'] = function(key) return joined(call('HMGET', key, unpack(FIELDS))) end,
  ['rq:queue'] = list,
  ['rq:wip'] = sorted,
  ['rq:scheduled'] = sorted,
  ['rq:deferred'] = sorted,
  ['rq:failed'] = sorted,
  ['rq:suspended'] = text,
  ['lastacross:queue'] = hash,
  ['lastacross:bucket'] = hash,
  ['lastacross:paused'] = set,
  ['lastacross:services'] = set,
  ['lastacross:run-now'] = list,
  ['lastacross:wakeup'] = list,
  ['lastacross:tombstone'] = text,
  ['lastacross:pull'] = sorted,
  ['lastacross:pull-tag'] = sorted,
  ['lastacross:pull-leased'] = sorted,
  ['lastacross:batches'] = sorted,
  ['lastacross:dead-groups'] = hash,
  ['lastacross:failing'] = sorted,
  ['lastacross:dead-group'] = sorted,
  ['lastacross:batch'] = batch,
}

local found = {}
for _, key in ipairs(call('KEYS', '*')) do
  local read = READERS[string.match(key, '^[^:]*:[^:]*')]
  if read then
    found[#found + 1] = key
    found[#found + 1] = read(key)
  end
end
return found
