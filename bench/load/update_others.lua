-- Update the records after FIRST, each as often as any other, with pauses of 5 ms on average.
dofile(os.getenv("LOAD") .. "/keys.lua")
request = function()
  return wrk.format("PUT", "/guid/" .. key(first + math.random(0, keys - 1)), json, change())
end
delay = function() return math.floor(-math.log(1 - math.random()) * 5 + 0.5) end
