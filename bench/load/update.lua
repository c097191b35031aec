dofile(os.getenv("LOAD") .. "/keys.lua")
request = function()
  return wrk.format("PUT", "/guid/" .. any(), json, change())
end
