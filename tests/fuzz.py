"""Requests made up from `/openapi.json`, with all of Schemathesis' checks: `python -m tests.fuzz` makes many.

Both ones that keep to the document and ones that do not are made, and sequences of them along its links.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers import ROOT, service

SEED = 20261123


def fuzz(folder: Path, cases: int, seed: int = SEED) -> subprocess.CompletedProcess[str]:
    """Make so many requests of each operation of a service that is started for it; return what Schemathesis says."""
    with service(folder, "--no-access-log") as running:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests" / "schemathesis.toml")]
        command += ["run", f"{running.url}/openapi.json", "--max-examples", str(cases), "--seed", str(seed)]
        found = os.environ | {"PYTHONPATH": str(ROOT)}  # for its hooks
        return subprocess.run(command, cwd=folder, env=found, check=False, text=True, stdout=subprocess.PIPE)


def main() -> int:
    """Make 2,000 of each, or as many as the first argument says, with the seed that is the second."""
    cases, seed = [*map(int, sys.argv[1:]), *(2000, SEED)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        done = fuzz(Path(folder), cases, seed)
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
