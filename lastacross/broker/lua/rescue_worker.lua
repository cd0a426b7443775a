-- rescue_worker: immediately recover all leased tasks of a worker process that has ended.
--
-- ARGV     1 now  2 its lease token  3 number of queues n  4… n queues  then the entries
--          '<task id>:<lease id>' that it had started
-- Returns  flat: task id, 'ready' | 'poison' | 'damaged' | 'gone', for each lease that was ended
-- States   rescue: leased → ready, dead, gone
-- include: keys
-- include: fan_in
-- include: lose

local now, token, queues = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local started, results = {}, {}
for position = 4 + queues, #ARGV do
  started[ARGV[position]] = true
end
for position = 4, 3 + queues do
  local queue = ARGV[position]
  for _, entry in ipairs(call('ZRANGE', LEASED .. queue, 0, -1)) do
    local id, lease = string.match(entry, '^([^:]*):(.*)$')
    if lease and string.sub(lease, 1, #token + 1) == token .. '.' then
      results[#results + 1] = id
      results[#results + 1] = lose(id, queue, lease, started[entry] or false, now)
    end
  end
end
return results
