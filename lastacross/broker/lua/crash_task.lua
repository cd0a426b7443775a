-- crash_task: end the lease of a task whose own process died. No other task ran in it, so this one had started.
--
-- ARGV: the current time, the task's id and its lease id.
-- Returns 'ready', 'poison' or 'damaged', or 'gone' if the lease was already lost.
-- States   rescue: leased → ready, dead, gone
-- include: keys
-- include: fan_in
-- include: lose

local id, lease_id = ARGV[2], ARGV[3]
local queue = queue_of(id)
if not call('ZSCORE', LEASED .. queue, id .. ':' .. lease_id) then
  return 'gone'
end
return lose(id, queue, lease_id, true, tonumber(ARGV[1]))
