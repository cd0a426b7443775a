-- call: redis.call for scripts that continue after meeting a key of the wrong type. None of our steps makes such a
-- key: another program wrote it, or a person did. It is moved aside, and the command finds nothing there.
-- include: key_names

local try, type_of = redis.pcall, type

-- For a key whose type this run has just checked, in code that runs for each task.
local sure_call = redis.call

local ASIDE_SECONDS = 30 * 86400
local MAX_DAMAGES = 1000

-- Write a line that the next worker to collect damages will log.
local function note_damage(text)
  try('RPUSH', DAMAGES, text)
  try('LTRIM', DAMAGES, -MAX_DAMAGES, -1)
end

local function move_aside(key, why)
  local aside = ASIDE .. key
  redis.call('RENAME', key, aside)
  redis.call('EXPIRE', aside, ASIDE_SECONDS)
  note_damage('the key ' .. key .. ' ' .. why .. '; it was renamed to ' .. aside .. ' and is kept for 30 days')
end

local function call(...)
  local answer = try(...)
  if type_of(answer) == 'table' and answer.err then
    if string.find(answer.err, 'WRONGTYPE', 1, true) then
      local _, key = ...
      move_aside(key, 'is of the wrong type (' .. redis.call('TYPE', key).ok .. ')')
    end
    -- A failed command has changed nothing. This second call raises any other error.
    return redis.call(...)
  end
  return answer
end
