-- Renew a lease that needs no renewal: each request is answered from the cache.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"ttl": 60, "if_below": 30}'
