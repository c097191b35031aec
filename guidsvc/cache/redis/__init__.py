"""The cache in Redis, shared by all processes: records, counters, and the connections to the server."""
