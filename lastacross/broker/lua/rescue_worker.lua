-- rescue_worker: immediately recover all leased tasks of a worker process that has ended.
--
-- ARGV: the current time, the worker's lease token, 1 if the process was silent, so that no crash counts against its
-- tasks, the number of queues, the queues, then an entry '<task id>:<lease id>' for each task that the worker had started.
-- Returns a flat list: for each ended lease, the task's id and 'ready', 'poison', 'damaged' or 'gone'.
-- States   rescue: leased → ready, dead, gone
-- include: keys
-- include: fan_in
-- include: lose

local now, token, is_blameless, queues = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local started, losses, results = {}, {}, {}
for position = 5 + queues, #ARGV do
  started[ARGV[position]] = true
end
for position = 5, 4 + queues do
  local queue = ARGV[position]
  for _, entry in ipairs(call('ZRANGE', LEASED .. queue, 0, -1)) do
    local lease = string.match(entry, '^[^:]*:(.*)$')
    if lease and string.sub(lease, 1, #token + 1) == token .. '.' then
      losses[#losses + 1] = { queue = queue, entry = entry, started = started[entry] or false }
    end
  end
end
lose_all(losses, now, results, is_blameless)
return results
