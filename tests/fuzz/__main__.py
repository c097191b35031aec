"""Random requests generated from `/openapi.json`, with all checks of Schemathesis: `python -m tests.fuzz` sends many.

They include HEAD and OPTIONS, which the document leaves out, valid and invalid requests, and sequences along its links.
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
    """Start a service; send `cases` requests per operation and follow its links in `cases` walks.

    Return whether all checks passed, and the output of Schemathesis.
    """
    with service(folder, "--no-access-log") as running:
        process = _run(running, folder, cases, seed)
        outputs, walks = [process.stdout], _walks(process.stdout)
        while (
            process.returncode == 0 and walks < cases
        ):  # Schemathesis ends its walks early: continue with another seed
            seed += 1
            process = _run(running, folder, cases, seed, "--phases", "stateful")
            outputs.append(process.stdout)
            walks += _walks(process.stdout)
    return process.returncode == 0, "\n".join([*outputs, f"{walks} walks along the links"])


def _run(running: Service, folder: Path, cases: int, seed: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(ROOT / "tests" / "fuzz" / "schemathesis.toml"),
    ]
    command += ["run", *whole_document(running, folder), "--max-examples", str(cases), "--seed", str(seed), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # to import the hooks
    return subprocess.run(command, cwd=folder, env=environment, check=False, text=True, stdout=subprocess.PIPE)


def whole_document(running: Service, folder: Path) -> tuple[str, ...]:
    """Write the document of a service with HEAD and OPTIONS added; return the arguments of Schemathesis for it."""
    with urlopen(f"{running.url}/openapi.json", timeout=60) as reply:
        document = with_all_methods(resolved(json.load(reply)))
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return str(path), "--url", running.url


def _walks(output: str) -> int:
    """Return the number of walks that the output reports; at least one, so that the loop ends."""
    return sum(map(int, re.findall(r"Scenarios:\s+(\d+)", output))) or 1


def main() -> int:
    """Send 2,000 requests per operation, or the number in the first argument; the second argument is the seed."""
    cases, seed = [*map(int, sys.argv[1:]), *(2000, SEED)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as folder:
        passed, output = fuzz(Path(folder), cases, seed)
    print(output)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
