-- add_task: store one ready task with a generated name in its queue's own list. Nearly every add uses this script.
--
-- ARGV: the task's id, then five values from its record: origin (the queue), description, data, created_at and
-- eta, then its other fields and values.
-- Returns 0 if it was added, or 10 if an earlier attempt of this request has already added it.
-- States   add: new → ready
--
-- No other request generates this id, so it is enough to check whether its record exists. `names` has the full check.
-- include: plain_call
-- include: arrival

local id, queue = ARGV[1], ARGV[2]
if call('EXISTS', RECORD .. id) == 1 then
  return 10
end
call('HSET', RECORD .. id, 'status', 'queued', 'origin', queue, 'description', ARGV[3], 'data', ARGV[4],
  'created_at', ARGV[5], 'eta', ARGV[6], unpack(ARGV, 7))
push_ready(READY .. queue, call('HGET', SETTINGS .. queue, 'group') or 'default', id)
return 0
