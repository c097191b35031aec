-- ADOPT: give this Redis a new boot (epoch). All callers of one generation get the same boot.
-- KEYS: the boot of this store.  ARGV: the run id of this Redis, the generation, a random name.
-- Returns the current boot: run id, generation and name; nil if this is a replica.
-- A boot of another run (restored from disk or copied from another server) or of another history is replaced.
-- A boot of a later generation is returned unchanged. The stored boot ends with the history in which it was made.
-- It expires after a year, because a SQLite store has a new name, and so another boot, after each start.
local now = history()
if now == '@replica' then return false end
local boot = redis.call('GET', KEYS[1])
if boot then
    local name, run, gen, made = string.match(boot, '^((%w+)%.(%d+)%.%w+)(@%w+)$')
    if run == ARGV[1] and made == now and tonumber(gen) >= tonumber(ARGV[2]) then return name end
end
boot = ARGV[1] .. '.' .. ARGV[2] .. '.' .. ARGV[3]
redis.call('SET', KEYS[1], boot .. now, 'PX', 31536000000)
return boot
