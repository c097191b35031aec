"""Random requests generated from `/openapi.json`, with all checks of Schemathesis.

They include HEAD and OPTIONS, which the document leaves out, valid and invalid requests, and sequences along its links.
"""

import re
from pathlib import Path

from tests.fuzz.generated_requests import SEED, send_requests
from tests.support.backing_servers import service


def fuzz(folder: Path, cases: int, seed: int = SEED) -> tuple[bool, str]:
    """Start a service; send `cases` requests per operation and follow its links in `cases` walks.

    Return whether all checks passed, and the output of Schemathesis.
    """
    with service(folder, "--no-access-log") as running:
        process = send_requests(running, folder, cases, seed)
        outputs, walks = [process.stdout], _walks(process.stdout)
        while (
            process.returncode == 0 and walks < cases
        ):  # Schemathesis ends its walks early: continue with another seed
            seed += 1
            process = send_requests(running, folder, cases, seed, "--phases", "stateful")
            outputs.append(process.stdout)
            walks += _walks(process.stdout)
    return process.returncode == 0, "\n".join([*outputs, f"{walks} walks along the links"])


def _walks(output: str) -> int:
    """Return the number of walks that the output reports; at least one, so that the loop ends."""
    return sum(map(int, re.findall(r"Scenarios:\s+(\d+)", output))) or 1
