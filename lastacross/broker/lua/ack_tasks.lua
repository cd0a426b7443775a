-- ack_tasks: delete completed tasks and set their bits in their batches.
--
-- ARGV: the current time, then for each task its id, its lease id, and three fields of its record: its member
-- '<batch id>:<index>', its tombstone's lifetime in seconds and its request. A missing field is ''.
-- Returns 1 for each task, or 0 if its lease was already lost.
-- States   ack: leased → gone
--
-- One script both sets the fan-in bit and ends the task, because a crash between two scripts would leave the
-- batch open forever. No script runs more often, so this one makes one call per queue or batch, not per task.
-- include: keys
-- include: fan_in
-- include: lose

local WIDTH = 5
local now = tonumber(ARGV[1])
local results, positions_of_queue = {}, {}
for position = 2, #ARGV, WIDTH do
  local queue = queue_of(ARGV[position])
  local positions = positions_of_queue[queue] or {}
  positions_of_queue[queue] = positions
  positions[#positions + 1] = position
  results[#results + 1] = 0
end

-- End the leases of the given tasks. Returns the positions in ARGV of the tasks whose leases were still held.
local function take_leases(queue, positions)
  local entries = {}
  for number, position in ipairs(positions) do
    entries[number] = ARGV[position] .. ':' .. ARGV[position + 1]
  end
  local scores = call('ZMSCORE', LEASED .. queue, unpack(entries))
  local held, held_entries, is_taken = {}, {}, {}
  for number, position in ipairs(positions) do
    if scores[number] and not is_taken[entries[number]] then
      is_taken[entries[number]] = true
      held[#held + 1] = position
      held_entries[#held_entries + 1] = entries[number]
      results[(position - 2) / WIDTH + 1] = 1
    end
  end
  if #held > 0 then
    call('ZREM', LEASED .. queue, unpack(held_entries))
  end
  return held
end

local function delete_records(positions)
  local records = {}
  for number, position in ipairs(positions) do
    records[number] = RECORD .. ARGV[position]
  end
  local are_all_there = call('EXISTS', unpack(records)) == #records
  for number, position in ipairs(are_all_there and {} or positions) do
    if call('EXISTS', records[number]) == 0 then
      finish_lost_record(ARGV[position], now)
    end
  end
  call('DEL', unpack(records))
end

local indexes_of_batch = {}
local function note_end(position)
  local member, tombstone, request = ARGV[position + 2], ARGV[position + 3], ARGV[position + 4]
  if tombstone ~= '' then
    leave_tombstone(ARGV[position], tombstone, request ~= '' and request or nil)
  end
  if member ~= '' then
    local batch, index = split_member(member)
    if not batch then
      finish_lost_record(ARGV[position], now, 'done')
      return
    end
    local indexes = indexes_of_batch[batch] or {}
    indexes_of_batch[batch] = indexes
    indexes[#indexes + 1] = index
  end
end

for queue, positions in pairs(positions_of_queue) do
  local held = take_leases(queue, positions)
  if #held > 0 then
    delete_records(held)
    for _, position in ipairs(held) do
      note_end(position)
    end
    count_executed(queue, #held, now)
    wake_for_slot(queue)
  end
end
for batch, indexes in pairs(indexes_of_batch) do
  if mark_members_done(batch, indexes) then
    complete_upwards(batch, now)
  end
end
return results
