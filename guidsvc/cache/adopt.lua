-- ADOPT: give this Redis a new boot, the same to all who ask for one of this generation.
-- KEYS: the boot, of this store.  ARGV: the run id of this Redis, the generation, a random name.
-- Returns the boot that there is now: run id, generation and name. One of another run, restored from disk or copied from
-- another server, does not count; one of a later generation is left as it is.
local boot = redis.call('GET', KEYS[1])
if boot then
    local run, gen = string.match(boot, '^(%w+)%.(%d+)%.')
    if run == ARGV[1] and tonumber(gen) >= tonumber(ARGV[2]) then return boot end
end
boot = ARGV[1] .. '.' .. ARGV[2] .. '.' .. ARGV[3]
redis.call('SET', KEYS[1], boot)
return boot
