"""Random requests generated from `/openapi.json`, without access control, and with each kind of key.

`python -m tests.fuzz` sends 1,000 requests per operation without access control, and 250 with each kind of key. Two
services run at a time, one for each core. Another number, and then a seed, can be given as arguments.
"""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.fuzz import access, conformance
from tests.fuzz.generated_requests import SEED

CASES = 1000
FEWER_WITH_A_KEY = 4
PROCESSES = 2


def main() -> int:
    """Run all, and print each result as it arrives. Return 1 if a check failed."""
    cases, seed = [*map(int, sys.argv[1:]), *(CASES, SEED)[len(sys.argv) - 1 :]]
    with ProcessPoolExecutor(PROCESSES) as pool:
        runs: dict[Future[tuple[bool, str]], str] = {
            pool.submit(_in_folder, conformance.fuzz, cases, seed): "no access control"
        }
        for kind in access.KINDS:
            fewer = max(1, cases // FEWER_WITH_A_KEY)
            runs[pool.submit(_in_folder, access.judge, kind, fewer, seed)] = f"key of {kind}"
        return 1 - min(_print_result(runs[run], *run.result()) for run in as_completed(runs))


def _in_folder(fuzz: Callable[..., tuple[bool, str]], *arguments: object) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as folder:
        return fuzz(Path(folder), *arguments)


def _print_result(name: str, passed: bool, output: str) -> bool:
    print(output, f"{name}: {'passed' if passed else 'FAILED'}", sep="\n", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
