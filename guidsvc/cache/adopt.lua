-- ADOPT: under which boot is this Redis used? Its own, if it has one since it was started; else a new one.
-- KEYS: the boot, of this store.  ARGV: the run id of this Redis, a random name.
-- A boot begins with the run id, so one that was restored from disk or copied from another server is not adopted.
local boot = redis.call('GET', KEYS[1])
if boot and string.sub(boot, 1, #ARGV[1]) == ARGV[1] then return boot end
boot = ARGV[1] .. '.' .. ARGV[2]
redis.call('SET', KEYS[1], boot)
return boot
