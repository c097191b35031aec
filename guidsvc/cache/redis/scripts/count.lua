-- COUNT: add to a counter, and to the part of it that one process has added.
-- KEYS: the counter; the part of the caller.
-- ARGV: what the caller has added before, as far as it knows; what it adds now; the life of both in ms.
-- Returns the counter. What Redis has lost of the part, by a restart or a flush, is added again.
local part = tonumber(redis.call('GET', KEYS[2]) or 0)
local amount = math.max(0, ARGV[1] - part) + ARGV[2]
redis.call('DEL', KEYS[2]) -- first: once a script has written, it may continue even if the memory is full
local count = redis.call('INCRBY', KEYS[1], amount)
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
redis.call('SET', KEYS[2], part + amount, 'PX', ARGV[3])
return count
