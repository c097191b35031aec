-- FILL: cache a record read from the store, unless a write came after the token was given out; and note a lease.
-- KEYS: the boot; the value, the markers and the lease of the GUID.
-- ARGV: the caller's boot, its token, the record, its life in ms, the caller's name, the life of a lease in ms.
-- Returns nil in another boot; 1 if the record is now cached and leased, 2 if cached without a lease; else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf') > 0 then return 0 end
if redis.call('GET', KEYS[2]) ~= 'T' .. ARGV[2] then return 0 end
redis.call('SET', KEYS[2], 'R' .. ARGV[3], 'PX', ARGV[4])
local holder = redis.call('GET', KEYS[4]) -- of a value that existed until recently
if holder and string.sub(holder, 1, 1) == '-' then return 2 end
if holder and holder ~= ARGV[5] then holder = '*' else holder = ARGV[5] end
redis.call('SET', KEYS[4], holder, 'PX', ARGV[6])
return 1
