dofile(os.getenv("LOAD") .. "/keys.lua")
request = function() return wrk.format("DELETE", "/guid/" .. fresh()) end
