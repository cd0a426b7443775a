-- add_tasks: store new tasks as ready or scheduled, unless their names are already taken.
--
-- ARGV: the current time, then for each task its id, its eta ('' if it is ready now), its target ('' for none,
-- otherwise the record's field of that name), the number of strings that follow, and then those strings: its
-- record's fields and values.
-- Returns, for each task, 0 if it was added, or App Engine's code: 10 if a task with this name exists, 11 if the name
-- is tombstoned.
-- States   add: new → ready, scheduled
--
-- One script checks the name and writes the task, so no other caller can take the name in between.
-- A client that loses the reply retries the call (see shared/names).
-- include: keys
-- include: names

local now = tonumber(ARGV[1])
local results = {}
local position = 2
while position <= #ARGV do
  local id, eta, target = ARGV[position], ARGV[position + 1], ARGV[position + 2]
  local first, last = position + 4, position + 3 + tonumber(ARGV[position + 3])
  position = last + 1
  local answer = answer_for_used_name(id, first, last)
  if not answer then
    local waits = eta ~= '' and tonumber(eta) > now
    sure_call('HSET', RECORD .. id, 'status', waits and 'scheduled' or 'queued', unpack(ARGV, first, last))
    if waits then
      schedule(queue_of(id), id, eta, target ~= '' and target or nil)
    else
      arrive(queue_of(id), id, target ~= '' and target or nil)
    end
  end
  results[#results + 1] = answer or 0
end
make_arrivals_ready()
wake_for_all_scheduled()
return results
