-- ADOPT: give this Redis a new boot, the same to all who ask for one of this generation.
-- KEYS: the boot, of this store.  ARGV: the run id of this Redis, the generation, a random name.
-- Returns the boot that there is now: run id, generation and name; nil if this is a replica. One of another run, restored
-- from disk or copied from another server, or of another history, does not count; one of a later generation is left as it
-- is. The history that a boot was made in is kept behind its name.
local now = history()
if now == '@replica' then return false end
local boot = redis.call('GET', KEYS[1])
if boot then
    local name, run, gen, made = string.match(boot, '^((%w+)%.(%d+)%.%w+)(@%w+)$')
    if run == ARGV[1] and made == now and tonumber(gen) >= tonumber(ARGV[2]) then return name end
end
boot = ARGV[1] .. '.' .. ARGV[2] .. '.' .. ARGV[3]
redis.call('SET', KEYS[1], boot .. now)
return boot
