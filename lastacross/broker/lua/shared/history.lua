-- history: keep a task's last failed attempts. Needs keys.
--
-- The record's field `history` says that the task has a history. A task that succeeds the first time has neither, so
-- it costs nothing. If another program has deleted a record, its history stays until it expires, and the next task
-- with this name begins a new one.

local MAX_ATTEMPTS = 20
local HISTORY_SECONDS = 32 * 86400

-- Append one attempt, as JSON. `has_history` is the record's field, and `seconds` is how long to keep the history.
local function note_attempt(id, attempt, has_history, seconds)
  if not has_history then
    call('DEL', HISTORY .. id)
    call('HSET', RECORD .. id, 'history', 1)
  end
  call('RPUSH', HISTORY .. id, attempt)
  call('LTRIM', HISTORY .. id, -MAX_ATTEMPTS, -1)
  call('EXPIRE', HISTORY .. id, math.ceil(math.max(seconds, 1)))
end
