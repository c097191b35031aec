"""Requests made up from `/openapi.json`, with all of Schemathesis' checks: `python -m tests.fuzz` makes many.

HEAD and OPTIONS, which the document leaves out, are made too; requests that keep to the document and ones that do not;
and sequences of them along its links.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

from tests.support.api_document import resolved, with_all_methods
from tests.support.backing_servers import ROOT, Service, service

SEED = 20261123

CONFIG = Path(__file__).with_name("schemathesis.toml")


def fuzz(folder: Path, cases: int, seed: int = SEED) -> tuple[bool, str]:
    """Make so many requests of each operation of a service that is started for it, and so many walks along the links.

    Return whether nothing was found, and what Schemathesis says.
    """
    with service(folder, "--no-access-log") as running:
        done = _run(running, folder, cases, seed)
        said, walks = [done.stdout], _walks(done.stdout)
        while done.returncode == 0 and walks < cases:  # Schemathesis ends its walks early; another seed goes elsewhere
            seed += 1
            done = _run(running, folder, cases, seed, "--phases", "stateful")
            said.append(done.stdout)
            walks += _walks(done.stdout)
    return done.returncode == 0, "\n".join([*said, f"{walks} walks along the links"])


def _run(running: Service, folder: Path, cases: int, seed: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(ROOT / "tests" / "fuzz" / "schemathesis.toml"),
    ]
    command += ["run", *whole_document(running, folder), "--max-examples", str(cases), "--seed", str(seed), *more]
    found = os.environ | {"PYTHONPATH": str(ROOT)}  # for its hooks
    return subprocess.run(command, cwd=folder, env=found, check=False, text=True, stdout=subprocess.PIPE)


def whole_document(running: Service, folder: Path) -> tuple[str, ...]:
    """Write the document of a service, with HEAD and OPTIONS; return the arguments by which Schemathesis reads it."""
    with urlopen(f"{running.url}/openapi.json", timeout=60) as reply:
        document = with_all_methods(resolved(json.load(reply)))
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return str(path), "--url", running.url


def _walks(said: str) -> int:
    """Read how many walks there were; at least one, so that this comes to an end."""
    return sum(map(int, re.findall(r"Scenarios:\s+(\d+)", said))) or 1


def main() -> int:
    """Make 2,000 of each, or as many as the first argument says, with the seed that is the second."""
    cases, seed = [*map(int, sys.argv[1:]), *(2000, SEED)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        sound, said = fuzz(Path(folder), cases, seed)
    print(said)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
