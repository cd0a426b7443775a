-- names: check whether a new task's name is free. Needs keys.
--
-- A client repeats a call after it lost the answer. The record's field `request` distinguishes its own task,
-- which it has already added, from another caller's.

-- Whether the record's fields and values in ARGV[first…last] come from the request `known`.
local function is_request(known, first, last)
  for index = first, last, 2 do
    if ARGV[index] == 'request' then
      return ARGV[index + 1] == known
    end
  end
  return false
end

-- nil when the name is free, else the answer of add: 0 this request has already added it, 10 a task of this
-- name exists, 11 its name is tombstoned. `first` and `last` give the new record's place in ARGV.
local function answer_for_used_name(id, first, last)
  local status, request, dead_at = unpack(call('HMGET', RECORD .. id, 'status', 'request', 'dead_at'))
  local tombstone = call('GET', TOMBSTONE .. id)
  if status and not (status == 'failed' and dead_at) then
    -- Failed without dead_at: a stock worker took it, and a sweep will restore it.
    return request and is_request(request, first, last) and 0 or 10
  elseif tombstone then
    return is_request(tombstone, first, last) and 0 or 11
  elseif status then
    -- The dead letter is older than its tombstone, so the name is free again.
    call('DEL', RECORD .. id)
    call('ZREM', DEAD .. queue_of(id), id)
  end
end
