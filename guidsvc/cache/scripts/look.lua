-- LOOK: does what this Redis kept under the caller's boot still stand?
-- KEYS: the boot; three that are not used; the caller's guard.
-- ARGV: the caller's boot; a number, which the guard must have reached; the next number.
-- Returns nil if the boot is over, or the guard has gone back, and the memory with it; else 1, or 0 if there was no
-- memory to set the guard.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
if tonumber(redis.call('GET', KEYS[5]) or 0) < tonumber(ARGV[2]) then return false end
return redis.pcall('SET', KEYS[5], ARGV[3], 'PX', 3600000).err and 0 or 1
