-- sweep_batches: count members as cancelled whose record is gone: an RQ tool deleted or cancelled them.
--
-- ARGV     1 now  2 rank of the open batch to begin with  3 index of its member to begin with
--          4 the most members to look at in this call
-- Returns  1 the rank and 2 the index to go on with: 0, 0 when all were seen
--
-- Nothing else would meet such a member, and its batch would be open for ever.
-- include: keys
-- include: fan_in

local now, rank, index, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

-- Look at members from `index` on. Returns the index to go on with, nil when all were seen.
local function sweep(batch)
  local key = BATCH .. batch
  local queue = call('HGET', key, 'queue')
  local last = call('STRLEN', key .. ':added') * 8 - 1
  while queue and index <= last do
    if left <= 0 then
      return index
    end
    if call('GETBIT', key .. ':added', index) == 1 and call('GETBIT', key .. ':finished', index) == 0 then
      local id = call('HGET', key .. ':names', index) or (queue .. '_' .. batch .. '-' .. index)
      -- Without eta it is no record of ours, but what a stock worker noted on a task after its end.
      local status, eta = unpack(call('HMGET', RECORD .. id, 'status', 'eta'))
      if not eta or status == 'canceled' then
        settle_member(batch .. ':' .. index, 'cancelled', now)
      end
    end
    index, left = index + 1, left - 1
  end
end

while true do
  local batch = call('ZRANGE', OPEN_BATCHES, rank, rank)[1]
  if not batch then
    return { 0, 0 }
  end
  local next_index = sweep(batch)
  if next_index then
    return { rank, next_index }
  end
  -- A batch that is complete now has left the open ones, and another has its rank.
  if call('ZSCORE', OPEN_BATCHES, batch) then
    if call('EXISTS', BATCH .. batch) == 0 then
      call('ZREM', OPEN_BATCHES, batch)
    else
      rank = rank + 1
    end
  end
  index, left = 0, left - 1
  if left <= 0 then
    return { rank, 0 }
  end
end
