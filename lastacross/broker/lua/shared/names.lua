-- names: check whether a new task's name is free. Needs keys.
--
-- A client that loses the reply retries the call. The record's field `request` then distinguishes the task that this
-- client has already added from another caller's task.
-- include: dead_groups

-- Whether the new record, which is ARGV[first…last], comes from the request `known`.
local function is_request(known, first, last)
  for index = first, last, 2 do
    if ARGV[index] == 'request' then
      return ARGV[index + 1] == known
    end
  end
  return false
end

-- Returns nil if the name is free, or the result of the add: 0 if this request has already added the task, 10 if
-- another task has this name, 11 if the name is tombstoned. The new record is ARGV[first…last].
local function answer_for_used_name(id, first, last)
  local status, request, dead_at = unpack(call('HMGET', RECORD .. id, 'status', 'request', 'dead_at'))
  local tombstone = call('GET', TOMBSTONE .. id)
  if status and not (status == 'failed' and dead_at) then
    -- A task that failed but has no dead_at was taken by a stock worker. A sweep will restore it.
    return request and is_request(request, first, last) and 0 or 10
  elseif tombstone then
    return is_request(tombstone, first, last) and 0 or 11
  elseif status then
    -- The dead letter has outlived its tombstone, so the name is free again.
    leave_dead_group(id)
    delete_record(id)
    call('ZREM', DEAD .. queue_of(id), id)
  end
end
