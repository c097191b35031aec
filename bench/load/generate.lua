-- Creations under generated GUIDs; with ONCE, each with an Idempotency-Key of its own.
dofile(os.getenv("LOAD") .. "/keys.lua")
local once = os.getenv("ONCE")
request = function()
  if once then json["Idempotency-Key"] = fresh() end
  return wrk.format("POST", "/guid", json, '{"user": "Cylance, Inc."}')
end
