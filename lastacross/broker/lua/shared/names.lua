-- names: whether a new task's name is free. Needs keys.
--
-- A client repeats a call whose answer was lost: the record's field `request` tells its own task, which it has
-- added, from another's.

-- Whether ARGV[first…last], a record's fields and values, are of the request that `known` names.
local function is_request(known, first, last)
  for place = first, last, 2 do
    if ARGV[place] == 'request' then
      return ARGV[place + 1] == known
    end
  end
  return false
end

-- nil when the name is free; else what add says of it: 0 this very request has added it before, 10 a task of
-- this name exists, 11 its name is tombstoned. `first`, `last`: where ARGV has the new record.
local function answer_for_used_name(id, first, last)
  local status, request, dead_at = unpack(call('HMGET', RECORD .. id, 'status', 'request', 'dead_at'))
  local tombstone = call('GET', TOMBSTONE .. id)
  if status and not (status == 'failed' and dead_at) then
    -- Failed without dead_at: a stock worker had it, and it will be put back.
    return request and is_request(request, first, last) and 0 or 10
  elseif tombstone then
    return is_request(tombstone, first, last) and 0 or 11
  elseif status then
    -- A dead letter older than its tombstone: the name is free again.
    call('DEL', RECORD .. id)
    call('ZREM', DEAD .. queue_of(id), id)
  end
end
