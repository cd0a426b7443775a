-- call: a version of redis.call for scripts that must continue when a key has the wrong type. None of our steps
-- creates such a key, so another program or a person wrote it. The key is moved aside, and the command runs again.
-- include: key_names

local try, type_of = redis.pcall, type

-- For code that runs once per task, when the same run has just checked the key's type.
local sure_call = redis.call

local ASIDE_SECONDS = 30 * 86400
local MAX_DAMAGES = 1000

-- Report damage in a line that the next worker to collect such reports will log.
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
    -- The failed command has changed nothing, so it can run again. This second call raises any other error.
    return redis.call(...)
  end
  return answer
end
