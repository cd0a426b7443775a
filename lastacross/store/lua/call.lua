-- call: redis.call for scripts that go on when they meet a key of the wrong type. No step of ours makes one: it
-- was written by another program, or by hand. It is moved aside, and the command finds nothing there.
-- include: key_names

local try, type_of = redis.pcall, type

-- For a key of which this run has just seen that it is of its type: what is done for each task.
local sure_call = redis.call

local ASIDE_SECONDS = 30 * 86400
local MAX_DAMAGES = 1000

-- Leave a line for the log of the next worker that looks.
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
    -- A command that fails has changed nothing; any other error is raised by this second call.
    return redis.call(...)
  end
  return answer
end
