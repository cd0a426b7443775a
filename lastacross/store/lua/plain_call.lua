-- plain_call: redis.call as it is, for the shortest script: `call` would be a tenth of it.

local call = redis.call
