"""`python pdapt.py` with a long time limit for MongoDB: a busy machine delays SecantusDB."""

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from guidsvc.cli.main import main
from guidsvc.store.mongo.store import open_mongo

PATIENT_MS = 20_000
DEFAULTS = inspect.unwrap(open_mongo).__kwdefaults__
"""The default arguments of `open_mongo`."""

if __name__ == "__main__":
    DEFAULTS["timeout_ms"] = PATIENT_MS
    main()
