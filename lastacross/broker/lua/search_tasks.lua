-- search_tasks: look through lists and registries for tasks that match a filter.
--
-- KEYS: at most 100 lists and sorted sets of tasks, in the order in which to look at them.
-- ARGV: the rank to start from in the first one, the maximum numbers of tasks to look at and to find, and the
-- filter: the beginning of the URL, a part of the name, the batch, the HTTP status of the last answer, and the
-- times in the format of created_at before and after which a task was added; '' for each part that is not used.
-- Then for each key its kind: 'list', 'oldest' or 'newest' for a sorted set read from that end, or for a pull queue
-- its name followed by a space, because the members of its set are names.
-- Returns the number of keys that were read to the end, the rank to continue with in the next one, the number of
-- tasks looked at, and the ids of the matching ones.
-- include: keys

local rank, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local url, name, batch, answer, before, after = unpack(ARGV, 4, 9)
local KINDS = 9

local CHUNK = 100

local function entries_of(key, kind, first, last)
  if kind == 'list' then
    return call('LRANGE', key, first, last)
  end
  return call(kind == 'newest' and 'ZREVRANGE' or 'ZRANGE', key, first, last)
end

local function id_of(entry, kind)
  local queue = string.match(kind, '^(.*) $')
  return queue and queue .. '_' .. entry or string.match(entry, '^[^:]*')
end

local function matches(id)
  if name ~= '' and not string.find(string.match(id, '_(.*)$') or '', name, 1, true) then
    return false
  end
  if url == '' and batch == '' and answer == '' and before == '' and after == '' then
    return true
  end
  local description, member, response, created_at = unpack(
    call('HMGET', RECORD .. id, 'description', 'batch', 'previous_response', 'created_at'))
  local path = string.match(description or '', '^%S* (.*)$') or ''
  return string.sub(path, 1, #url) == url
    and (batch == '' or string.match(member or '', '^(.*):') == batch)
    and (answer == '' or response == answer)
    and (before == '' or (created_at and created_at < before))
    and (after == '' or (created_at and created_at >= after))
end

local looked, found, place = 0, {}, 1
while place <= #KEYS and looked < most and #found < wanted do
  local kind, number = ARGV[KINDS + place], math.min(CHUNK, most - looked)
  local entries = entries_of(KEYS[place], kind, rank, rank + number - 1)
  local read = 0
  for _, entry in ipairs(entries) do
    if #found < wanted then
      read = read + 1
      local id = id_of(entry, kind)
      if matches(id) then
        found[#found + 1] = id
      end
    end
  end
  rank, looked = rank + read, looked + read
  if #entries < number and read == #entries then
    place, rank = place + 1, 0
  end
end
return { place - 1, rank, looked, unpack(found) }
