-- LOOK: are the entries of the caller's boot still valid?
-- KEYS: the boot; three unused keys; the caller's guard.
-- ARGV: the caller's boot; the number that the guard must have reached; the next number.
-- Returns nil if the boot is over, or if the guard, and so the memory, was rolled back. Else returns 1, or 0 if there
-- was no memory to set the guard.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
if tonumber(redis.call('GET', KEYS[5]) or 0) < tonumber(ARGV[2]) then return false end
return redis.pcall('SET', KEYS[5], ARGV[3], 'PX', 3600000).err and 0 or 1
