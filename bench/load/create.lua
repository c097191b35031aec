dofile(os.getenv("LOAD") .. "/keys.lua")
request = function() return wrk.format("PUT", "/guid/" .. fresh(), json, '{"user": "Cylance, Inc."}') end
