-- READ: what does the cache know of these GUIDs?
-- KEYS: the boot; then the value, the markers and the lease of each GUID.
-- ARGV: the caller's boot, a new token, its life in ms, the caller's name, the life of a lease in ms.
-- Returns nil under another boot; else of each GUID: a value, 'R' and the record, and a lease of it is noted; 'T': the
-- caller may fill with its token; or 'B': busy, a write or a fill is under way. Where no lease is given, since the GUID
-- has just been written, or noted, for the lack of memory, the value begins with 'r': it must not be kept.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. history() then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for place = 2, #KEYS, 3 do
    local value = redis.call('GET', KEYS[place])
    if value and string.sub(value, 1, 1) == 'R' then -- then no marker is live: BEGIN drops it, and FILL waits for END
        local holder = redis.call('GET', KEYS[place + 2])
        local leased = not holder or string.sub(holder, 1, 1) ~= '-'
        if leased then
            if holder and holder ~= ARGV[4] then holder = '*' else holder = ARGV[4] end
            leased = not redis.pcall('SET', KEYS[place + 2], holder, 'PX', ARGV[5]).err
        end
        if not leased then value = 'r' .. string.sub(value, 2) end
        found[#found + 1] = value
    elseif value or redis.call('ZCOUNT', KEYS[place + 1], '(' .. now, '+inf') > 0 then
        found[#found + 1] = 'B'
    else
        local set = redis.pcall('SET', KEYS[place], 'T' .. ARGV[2], 'PX', ARGV[3])
        found[#found + 1] = set.err and 'B' or 'T'
    end
end
return found
