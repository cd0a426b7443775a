-- set_aside: move aside any keys of the wrong type.
--
-- ARGV: for each key its name and its expected type.
-- Returns the names of the moved keys.
-- include: call

local moved = {}
for position = 1, #ARGV, 2 do
  local found = redis.call('TYPE', ARGV[position]).ok
  if found ~= 'none' and found ~= ARGV[position + 1] then
    move_aside(ARGV[position], 'is of the wrong type (' .. found .. ')')
    moved[#moved + 1] = ARGV[position]
  end
end
return moved
