-- add_pull_tasks: store new tasks in their pull queues, unless their names are already taken.
--
-- ARGV: for each task its id, its eta, the number of strings that follow, and then those strings: its record's
-- other fields and values.
-- Returns, for each task, 0 if it was added, or App Engine's code: 10 if a task with this name exists, 11 if the name
-- is tombstoned.
-- States   add: new → ready, scheduled
--
-- One script checks the name and writes the task, so no other caller can take the name in between.
-- A client that loses the reply retries the call (see shared/names).
-- RQ sees these tasks as scheduled, but they are in none of its lists and registries, so no worker or sweep takes
-- them.
-- include: keys
-- include: names
-- include: pull

local results = {}
local position = 1
while position <= #ARGV do
  local id, eta = ARGV[position], ARGV[position + 1]
  local first, last = position + 3, position + 2 + tonumber(ARGV[position + 2])
  position = last + 1
  local answer = answer_for_used_name(id, first, last)
  if not answer then
    call('HSET', RECORD .. id, unpack(ARGV, first, last))
    call('HSET', RECORD .. id, 'status', 'scheduled', 'eta', eta)
    index_pull_task(queue_of(id), name_of(id), call('HGET', RECORD .. id, 'tag'), eta)
  end
  results[#results + 1] = answer or 0
end
return results
