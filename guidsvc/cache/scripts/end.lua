-- END: the write is over. Drop the caller's marker, nobody else's.
-- KEYS: the boot; the value, the markers and the lease of the GUID.  ARGV: the caller's boot, its marker.
-- Returns nil under another boot; else 1 if the marker was there, or 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
return redis.call('ZREM', KEYS[3], ARGV[2])
