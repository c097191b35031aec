-- Reads, and a share of updates, of keys by Zipf's law; with a pause, if one is asked for, of so many ms on average.
dofile(os.getenv("LOAD") .. "/keys.lua")
local writes, pause = tonumber(os.getenv("WRITES")), tonumber(os.getenv("PAUSE") or "0")
request = function()
  if math.random() >= writes then return wrk.format("GET", "/guid/" .. popular()) end
  return wrk.format("PUT", "/guid/" .. popular(), json, change())
end
if pause > 0 then delay = function() return math.floor(-math.log(1 - math.random()) * pause + 0.5) end end
