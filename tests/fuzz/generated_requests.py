"""One run of Schemathesis, which generates the requests from `/openapi.json`.

The document is served without HEAD and OPTIONS, so they are added. They get a tenth of the requests: a HEAD is handled
as its GET, and the response to OPTIONS depends only on the path.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.request import urlopen

from tests.support.api_document import resolved, with_all_methods
from tests.support.backing_servers import ROOT, Service

SEED = 20261123
_CONFIG = Path(__file__).with_name("schemathesis.toml")
_FEWER_REQUESTS = """
[[operations]]
include-method = ["HEAD", "OPTIONS"]
generation.max-examples = %d
"""


def send_requests(
    running: Service, folder: Path, cases: int, seed: int, *options: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Send `cases` generated requests per operation to a service; return the exit code and output of Schemathesis.

    `environment` has the settings of the hooks.
    """
    config, document = folder / "schemathesis.toml", folder / "openapi.json"
    config.write_text(_CONFIG.read_text() + _FEWER_REQUESTS % max(1, cases // 10))
    document.write_text(json.dumps(_whole_document(running)))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", str(document)]
    command += ["--url", running.url, "--max-examples", str(cases), "--seed", str(seed), *options]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {})  # the path is that of the hooks
    return subprocess.run(command, cwd=folder, env=variables, check=False, text=True, stdout=subprocess.PIPE)


def _whole_document(running: Service) -> dict[str, object]:
    """Return the document of a service with HEAD and OPTIONS added."""
    with urlopen(f"{running.url}/openapi.json", timeout=60) as reply:
        return with_all_methods(resolved(json.load(reply)))
