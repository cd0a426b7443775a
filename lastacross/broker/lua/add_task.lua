-- add_task: store one ready task for its queue's own list, named by the engine: what nearly every add is.
--
-- ARGV     1 task id  then of the record: 2 origin (the queue)  3 description  4 data  5 created_at  6 eta
--          then strings: its other fields and values
-- Returns  0 added, 10 it is there: this very request has added it before.
-- States   add: new → ready
--
-- No other request makes this id, so its record is all there is to look at: `names` has more to tell apart.
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
