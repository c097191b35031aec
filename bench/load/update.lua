dofile(os.getenv("LOAD") .. "/keys.lua")
count = 0
request = function()
  count = count + 1
  return wrk.format("PUT", "/guid/" .. any(), json, '{"user": "user ' .. count .. '"}')
end
