-- arrival: a ready task comes to a list. It is apart from `keys` because one task is added in so short a script that
-- making the functions of `keys` would be half of it. Needs call or plain_call.
-- The names of keys and prefixes (RECORD, READY, …: what ends in a colon is a prefix) are as `store` has them.
-- include: key_names

-- Leave a marker for the workers of this group, unless one waits there already.
-- 'scheduled' asks the one that takes it to look at the scheduled tasks as well.
local function wake_group(group, reason)
  local list = WAKEUP .. group
  if call('EXISTS', list) == 0 then
    call('RPUSH', list, reason or 'ready')
  elseif reason == 'scheduled' then
    call('LSET', list, 0, reason)
  end
end

-- Put one task at the end of a list (or, with 'LPUSH', the front), and wake the group that looks there.
local function push_ready(list, group, id, command)
  if call(command or 'RPUSH', list, id) == 1 then
    call('SADD', QUEUES, list)
  end
  wake_group(group)
end
