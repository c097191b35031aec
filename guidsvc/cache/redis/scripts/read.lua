-- READ: look up these GUIDs.
-- KEYS: the boot; then the value, the markers and the lease of each GUID.
-- ARGV: the caller's boot, a new token, its life in ms, the caller's name, the life of a lease in ms, the size of the
--       values, in bytes, after which no more are looked up.
-- Returns nil in another boot; else, for each GUID, one of:
--   'R' and the record: a lease was noted.
--   'r' and the record: no lease, because the GUID was just written or memory is short; the caller must not keep it.
--   'T': the caller may fill with its token.
--   'B': busy, a write or a fill is in progress.
--   'N': not looked up, because the values before it have that size.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
local left = tonumber(ARGV[6])
for place = 2, #KEYS, 3 do
    local value = left > 0 and redis.call('GET', KEYS[place])
    if left <= 0 then
        found[#found + 1] = 'N'
    elseif value and string.sub(value, 1, 1) == 'R' then -- no marker is live: BEGIN drops values, FILL respects it
        local holder = redis.call('GET', KEYS[place + 2])
        local leased = not holder or string.sub(holder, 1, 1) ~= '-'
        if leased then
            if holder and holder ~= ARGV[4] then holder = '*' else holder = ARGV[4] end
            leased = not redis.pcall('SET', KEYS[place + 2], holder, 'PX', ARGV[5]).err
        end
        if not leased then value = 'r' .. string.sub(value, 2) end
        found[#found + 1] = value
        left = left - string.len(value)
    elseif value or redis.call('ZCOUNT', KEYS[place + 1], '(' .. now, '+inf') > 0 then
        found[#found + 1] = 'B'
    else
        local set = redis.pcall('SET', KEYS[place], 'T' .. ARGV[2], 'PX', ARGV[3])
        found[#found + 1] = set.err and 'B' or 'T'
    end
end
return found
