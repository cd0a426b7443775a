-- arrival: put a ready task into a list. Needs call or plain_call.
-- It is separate from `keys` because the script that adds one task is so short that the functions of `keys`
-- would double its cost. The names of keys and prefixes are those of `store`; a prefix ends in a colon.
-- include: key_names

-- Leave a marker for this group's workers, unless one waits already.
-- With 'scheduled', the worker that takes it also promotes scheduled tasks.
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
