-- cache_offset: adds to or subtracts from unsigned 64-bit numbers.
--
-- KEYS: the generation in use and the values' prefix.
-- ARGV: the current time, expires_at for a newly created number, the version to write, the initial number for a
-- missing key or '', then for each key: the key, '+' or '-', and the delta (decimal, below 2^64). Times are
-- integer microseconds since the epoch.
-- Returns for each key the new number in decimal, or nil if it is missing, locked or not a number.
--
-- This is one script, so that concurrent additions are all counted. Numbers are decimal strings, because Lua's
-- numbers are exact only up to 2^53. As in memcached, a sum wraps at 2^64 and a difference stops at 0.
-- include: cache

local LIMIT = '18446744073709551616' -- 2^64

local function is_below(a, b)
  return #a < #b or (#a == #b and a < b)
end

local function trimmed(digits)
  return string.match(digits, '^0*(%d+)$')
end

local function digit(digits, place)
  local index = #digits - place
  return index < 1 and 0 or tonumber(string.sub(digits, index, index))
end

-- Both functions work from the right, one digit at a time; subtract requires a >= b.
local function add(a, b)
  local out, carry = {}, 0
  for place = 0, math.max(#a, #b) do
    local sum = carry + digit(a, place) + digit(b, place)
    table.insert(out, 1, tostring(sum % 10))
    carry = sum >= 10 and 1 or 0
  end
  return trimmed(table.concat(out))
end

local function subtract(a, b)
  local out, borrow = {}, 0
  for place = 0, #a - 1 do
    local rest = digit(a, place) - digit(b, place) - borrow
    borrow = rest < 0 and 1 or 0
    table.insert(out, 1, tostring(rest % 10))
  end
  return trimmed(table.concat(out))
end

local function offset(number, sign, delta)
  if sign == '-' then
    return is_below(number, delta) and '0' or subtract(number, delta)
  end
  local sum = add(number, delta)
  return is_below(sum, LIMIT) and sum or subtract(sum, LIMIT)
end

local now, expires_at, version, initial = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- Returns the entry to change, or nil.
local function number_at(name)
  local entry = read_entry(name, tonumber(now))
  if entry == nil then
    return initial ~= '' and { kind = 'i', expires_at = expires_at, payload = initial } or nil
  end
  local digits = string.match(entry.payload, '^%d+$') and trimmed(entry.payload)
  local is_number = digits and string.match(entry.kind, '[biu]') and is_below(digits, LIMIT)
  entry.payload = digits
  return is_number and entry or nil
end

local answer = {}
for index = 5, #ARGV, 3 do
  local name = cache_key(ARGV[index])
  local entry = number_at(name)
  if entry == nil then
    answer[#answer + 1] = false
  else
    local number = offset(entry.payload, ARGV[index + 1], ARGV[index + 2])
    write_entry(name, now, entry.kind, entry.expires_at, version, number)
    answer[#answer + 1] = number
  end
end
return answer
