-- The common start of every script: the replication history of this Redis, which changes with its role.
-- A Redis that becomes a replica takes over the memory of its master. When it becomes a master again, it starts a new
-- history, although it is the same process with the same run id. So a boot is valid only in the history it was made in.
local function history()
    local info = redis.call('INFO', 'replication')
    if not string.find(info, 'role:master\r\n', 1, true) then return '@replica' end
    return '@' .. string.match(info, 'master_replid:(%w+)')
end
