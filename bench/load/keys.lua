-- Key n of the records that `bench.records` makes: the same formula in both places.
function key(n)
  return string.format("%08X%08X%08X%08X", (n * 1664525) % 4294967296, (n * 40503) % 4294967296, n, (n * 69069 + 1) % 4294967296)
end

keys = tonumber(os.getenv("KEYS") or "100000")
first = tonumber(os.getenv("FIRST") or "0") -- where new keys begin

-- A key by Zipf's law, with an exponent of 1: the k-th is asked for 1/k as often as the first.
function popular() return key(math.floor(keys ^ math.random()) - 1) end
function any() return key(math.random(0, keys - 1)) end
next_key = first
function fresh()
  next_key = next_key + 1
  return key(next_key)
end

-- The body of an update. It differs in each run: wrk sends the same keys again, and an equal record would not be written.
local changes = os.time() * 10000
function change()
  changes = changes + 1
  return string.format('{"user": "user %d"}', changes)
end

json = { ["Content-Type"] = "application/json" }
