-- dead_groups: count the dead letters by handler, answer and reason. Needs keys.
--
-- One hash holds all groups, so that showing them takes one read: '<number of letters> <time of the newest letter>
-- <JSON list of the handler, the answer's status and the normalised reason>'. The ids are in a sorted set per group,
-- scored by their expiry. The record's field `dead_group` names the set.

local MAX_GROUPS = 1000
local OTHER = 'other'
local MAX_TEXT = 200
local ID_LENGTH = 8

-- Replace the parts of a reason that differ from letter to letter: quoted text, and words that contain a digit. The
-- status stays, because all letters of a group have the same one.
local function normalised(reason)
  local text = string.sub(string.match(reason, '^%s*([^\r\n]*)'), 1, 2 * MAX_TEXT)
  local answered = string.match(text, '^answered %d+') or ''
  text = string.sub(text, #answered + 1)
  text = string.gsub(text, "'[^']*'", "'*'")
  text = string.gsub(text, '"[^"]*"', '"*"')
  -- A single pattern that includes the digit would scan a long word again from each of its characters.
  text = string.gsub(text, '[%w_]+', function(word)
    return string.find(word, '%d') and '#' or nil
  end)
  return string.sub(answered .. text, 1, MAX_TEXT)
end

-- The path of a task's URL, in which '*' stands for numbers and long ids.
local function handler_of(description)
  local path = string.match(description, '^%S* ([^?]*)') or ''
  path = string.gsub(path, '[^/]+', function(part)
    local is_id = string.find(part, '^%d+$') or (#part >= ID_LENGTH and string.find(part, '%d'))
    return is_id and '*' or part
  end)
  return string.sub(path, 1, MAX_TEXT)
end

-- Update the number of letters in a group; a group without letters is removed.
local function count_group(group)
  local letters, text = call('ZCARD', DEAD_GROUP .. group), call('HGET', DEAD_GROUPS, group)
  if letters == 0 then
    call('HDEL', DEAD_GROUPS, group)
  else
    call('HSET', DEAD_GROUPS, group, letters .. (string.match(text or '', ' .*') or ' 0 ["","",""]'))
  end
end

-- Take a letter out of its group before its record changes. A task that is not a dead letter has no group.
local function leave_dead_group(id)
  local group = call('HGET', RECORD .. id, 'dead_group')
  if group then
    call('HDEL', RECORD .. id, 'dead_group')
    if call('ZREM', DEAD_GROUP .. group, id) == 1 then
      count_group(group)
    end
  end
end

-- Put a dead letter into its group. `dead_at` and `expires_at` are formatted times.
local function join_dead_group(id, dead_at, expires_at)
  leave_dead_group(id)
  local handler, description, status, error = unpack(
    call('HMGET', RECORD .. id, 'handler', 'description', 'previous_response', 'error'))
  error = error or ''
  if string.find(error, '^poison:') or string.find(error, '^damaged:') then
    -- There was no answer.
    status = nil
  end
  local parts = { handler and string.sub(handler, 1, MAX_TEXT) or handler_of(description or ''),
    status and string.sub(status, 1, 10) or '', normalised(error) }
  local group = string.sub(redis.sha1hex(table.concat(parts, '\n')), 1, 16)
  local known = call('HGET', DEAD_GROUPS, group)
  if not known and call('HLEN', DEAD_GROUPS) >= MAX_GROUPS then
    group, parts = OTHER, { '', '', '' }
    known = call('HGET', DEAD_GROUPS, group)
  end
  call('ZADD', DEAD_GROUP .. group, expires_at, id)
  local newest = known and number_of(string.match(known, '^%d+ (%S+)') or '') or 0
  if newest < tonumber(dead_at) then
    newest = tonumber(dead_at)
  end
  call('HSET', DEAD_GROUPS, group,
    call('ZCARD', DEAD_GROUP .. group) .. ' ' .. instant(newest) .. ' ' .. cjson.encode(parts))
  call('HSET', RECORD .. id, 'dead_group', group)
end
