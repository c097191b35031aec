-- END: the write is over. Drop the caller's marker, and no other.
-- KEYS: the boot; the value, the markers and the lease of the GUID.  ARGV: the caller's boot, its marker.
-- Returns nil in another boot; else 1 if the marker existed, or 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
return redis.call('ZREM', KEYS[3], ARGV[2])
