"""The time limit of a store on MongoDB, and one for tests: a busy machine delays SecantusDB."""

import inspect

from guidsvc.store.mongo.store import open_mongo

PATIENT_MS = 20_000
DEFAULTS = inspect.unwrap(open_mongo).__kwdefaults__
"""The default arguments of `open_mongo`."""
