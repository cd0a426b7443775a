-- plain_call: plain redis.call for the shortest script, of which `call` would be a tenth.

local call = redis.call
