-- The beginning of every script: the replication history of this Redis, which changes with its role.
-- A Redis that becomes a replica takes the memory of its master over; one that becomes a master again begins a new
-- history, though it is the same process with the same run id. So a boot counts only under the history that it was made in.
local function history()
    local info = redis.call('INFO', 'replication')
    if not string.find(info, 'role:master\r\n', 1, true) then return '@replica' end
    return '@' .. string.match(info, 'master_replid:(%w+)')
end
