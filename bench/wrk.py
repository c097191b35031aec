"""Load, by wrk: one thread of it on a core of its own, and what it says."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.running import LOAD_CORE

CONNECTIONS = 32
_LOAD = Path(__file__).parent / "load"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


class Measured(NamedTuple):
    """Requests a second, how many there were, and in how many ms half of them and 99 % were answered."""

    rate: float
    requests: int
    p50: float
    p99: float
    failed: int
    """How many were answered with an error, or not at all."""


def load(  # noqa: PLR0913  # what wrk takes
    port: int, path: str, seconds: int, *, script: str | None = None, connections: int = CONNECTIONS,
    headers: Mapping[str, str] | None = None, variables: Mapping[str, object] | None = None, core: str = LOAD_CORE,
) -> Measured:  # fmt: skip
    """Ask a server on this host for so many seconds, for one path or as a script of `bench/load` says."""
    command = ["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += [word for name, value in (headers or {}).items() for word in ("-H", f"{name}: {value}")]
    command += [] if script is None else ["-s", str(_LOAD / f"{script}.lua")]
    environment = os.environ | {"LOAD": str(_LOAD)} | {name: str(value) for name, value in (variables or {}).items()}
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], env=environment, check=True, capture_output=True, text=True
    )
    return read(done.stdout)


def read(said: str) -> Measured:
    """Return what a report of wrk says; raise RuntimeError if a figure is missing."""
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return Measured(
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", said)),
        requests=int(_found(r"(\d+) requests in", said)),
        p50=_ms(_found(r"^\s+50%\s+(\S+)\s*$", said)),
        p99=_ms(_found(r"^\s+99%\s+(\S+)\s*$", said)),
        failed=(sum(map(int, broken.groups())) if broken else 0) + (int(errors[1]) if errors else 0),
    )


def _found(pattern: str, said: str) -> str:
    found = re.search(pattern, said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk says nothing of {pattern}: {said}")
    return found[1]


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]  # as wrk writes it
    return float(number) * _UNITS[unit]
