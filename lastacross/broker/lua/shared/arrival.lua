-- arrival: put a ready task into a list. Needs call or plain_call.
-- This file is separate from `keys` because the script that adds one task is so short that the functions in
-- `keys` would double its cost. Key names and prefixes come from `store`, and every prefix ends in a colon.
-- include: key_names

-- Leave a marker for this group's workers, unless there is one already.
-- If `reason` is 'scheduled', the worker that takes the marker also promotes scheduled tasks.
local function wake_group(group, reason)
  local list = WAKEUP .. group
  if call('EXISTS', list) == 0 then
    call('RPUSH', list, reason or 'ready')
  elseif reason == 'scheduled' then
    call('LSET', list, 0, reason)
  end
end

-- Append one task to a list (or prepend it with 'LPUSH'), and wake the group that serves the list.
local function push_ready(list, group, id, command)
  if call(command or 'RPUSH', list, id) == 1 then
    call('SADD', QUEUES, list)
  end
  wake_group(group)
end
