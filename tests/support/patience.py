"""The time limits of MongoDB and Redis, and those for tests: a busy machine delays their servers."""

import inspect
from dataclasses import replace

from guidsvc.cache.redis.cache import TIMING, open_redis_cache
from guidsvc.store.mongo.store import open_mongo

MONGO_PATIENT_MS = 20_000
MONGO_DEFAULTS = inspect.unwrap(open_mongo).__kwdefaults__
"""The default arguments of `open_mongo`."""
CACHE_DEFAULTS = inspect.unwrap(open_redis_cache).__kwdefaults__
"""The default arguments of `open_redis_cache`."""
PATIENT_TIMING = replace(TIMING, redis=2.0, marker=60.0)
"""The usual timing leaves the store 1 to 5 s for a write; a busy machine needs more."""
