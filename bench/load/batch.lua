-- A hundred creations a request.
dofile(os.getenv("LOAD") .. "/keys.lua")
request = function()
  local operations = {}
  for n = 1, 100 do operations[n] = '{"guid": "' .. fresh() .. '", "user": "Cylance, Inc."}' end
  return wrk.format("POST", "/guid:batch", json, '{"operations": [' .. table.concat(operations, ",") .. "]}")
end
