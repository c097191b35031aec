-- END: the write is over. Drop the caller's marker, nobody else's.
-- KEYS: the boot, the value, the markers of the GUID.  ARGV: the caller's boot, its marker.
-- Returns nil under another boot; 1 if the marker stood until now; else 0: it had died, or was lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local dies = redis.call('ZSCORE', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
if dies and tonumber(dies) > now then return 1 end
return 0
