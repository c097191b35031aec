"""`python pdapt.py` with a long time limit for MongoDB: a busy machine delays SecantusDB."""

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from guidsvc.cli.main import main
from guidsvc.store.mongo.store import open_mongo

TIMEOUT_MS = 20_000

if __name__ == "__main__":
    inspect.unwrap(open_mongo).__kwdefaults__["timeout_ms"] = TIMEOUT_MS
    main()
