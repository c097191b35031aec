-- FILL: keep what was read from the store, if no write has come since the token was given; and note a lease of it.
-- KEYS: the boot; the value, the markers and the lease of the GUID.
-- ARGV: the caller's boot, its token, the record, its life in ms, the caller's name, the life of a lease in ms.
-- Returns nil under another boot; 1 if the record is now cached, 2 if it is and no lease is given; else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf') > 0 then return 0 end
if redis.call('GET', KEYS[2]) ~= 'T' .. ARGV[2] then return 0 end
redis.call('SET', KEYS[2], 'R' .. ARGV[3], 'PX', ARGV[4])
local holder = redis.call('GET', KEYS[4]) -- of a value that was there until a moment ago
if holder and string.sub(holder, 1, 1) == '-' then return 2 end
if holder and holder ~= ARGV[5] then holder = '*' else holder = ARGV[5] end
redis.call('SET', KEYS[4], holder, 'PX', ARGV[6])
return 1
