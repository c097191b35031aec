"""`python pdapt.py` with a long time limit for MongoDB: a busy machine delays SecantusDB."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from guidsvc.cli.main import main
from tests.support.patience import MONGO_DEFAULTS, MONGO_PATIENT_MS

if __name__ == "__main__":
    MONGO_DEFAULTS["timeout_ms"] = MONGO_PATIENT_MS
    main()
