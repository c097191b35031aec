dofile(os.getenv("LOAD") .. "/keys.lua")
request = function() return wrk.format("GET", "/guid/" .. any()) end
