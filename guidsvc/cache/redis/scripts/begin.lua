-- BEGIN: a write of this GUID is about to go to the store. Drop the value, and with it any token; set a marker.
-- KEYS: the boot; the value, the markers and the lease of the GUID; the caller's guard.
-- ARGV: the caller's boot, its marker, the marker's life in ms, the caller's name, for how many ms no lease is granted;
-- the number that the guard must have reached, and the next.
-- Returns nil in another boot, or if the guard was rolled back; else the remaining ms of the longest lease of a process
-- other than the caller.
-- A key that is written again and again is leased to no process, so its writers need not wait each time: the holder is
-- then '-', followed by the end of the existing leases.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
if tonumber(redis.call('GET', KEYS[5]) or 0) < tonumber(ARGV[6]) then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('DEL', KEYS[2]) -- first: once a script has written, it may continue even if the memory is full
redis.call('SET', KEYS[5], ARGV[7], 'PX', 3600000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[3]) then -- the longest-lived marker decides
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
local holder = redis.call('GET', KEYS[4])
local left = 0
if holder and string.sub(holder, 1, 1) == '-' then
    left = math.max(0, string.sub(holder, 2) - now)
elseif holder and holder ~= ARGV[4] then
    left = redis.call('PTTL', KEYS[4])
end
redis.call('SET', KEYS[4], '-' .. (now + left), 'PX', math.max(ARGV[5], left))
return left
