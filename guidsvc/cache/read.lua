-- READ: what does the cache know of this GUID?
-- KEYS: the boot, the value, the markers of the GUID.  ARGV: the caller's boot, a new token, its life in ms.
-- Returns nil under another boot; {"BUSY"}; {"HIT", record}; or {"TOKEN"}: the caller may fill with that token.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf') > 0 then return {'BUSY'} end
local value = redis.call('GET', KEYS[2])
if not value then
    redis.call('SET', KEYS[2], 'T' .. ARGV[2], 'PX', ARGV[3])
    return {'TOKEN'}
end
if string.sub(value, 1, 1) == 'T' then return {'BUSY'} end
return {'HIT', string.sub(value, 2)}
