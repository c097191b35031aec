"""Hooks of Schemathesis, for what its configuration file cannot express."""

import os
import re
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis

hypothesis.target = lambda *_, **__: 0
"""Schemathesis reports what is accepted to Hypothesis, which then ranks all examples: half of the time of a run."""
TAGS = ("If-Match", "If-None-Match")
SECONDS = {"expire", "ttl", "spread", "if_below", "at_least"}
VICTIMS = os.environ.get("FUZZ_VICTIMS", "").split()
"""GUIDs at which `tests.fuzz.access` points the requests."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Repair values that Schemathesis wrongly considers valid, and point requests at the victims' records."""
    for name in TAGS:  # Schemathesis 4.32 considers 0 valid, against their pattern
        if case.headers and case.headers.get(name) in {0, "0"}:
            del case.headers[name]
    if case.query and case.query.get("wait"):  # waiting would take most of the time
        case.query["wait"] = "0" if str(case.query["wait"]).isdecimal() else case.query["wait"]
    for name in SECONDS & case.body.keys() if isinstance(case.body, dict) else ():
        if isinstance(case.body[name], float):
            case.body[name] = _without_fraction(case.body[name])
    if VICTIMS:
        _point_at_victim(case.path_parameters)
        for operation in case.body.get("operations") or () if isinstance(case.body, dict) else ():
            _point_at_victim(operation)


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Record requests whose response contains the canary."""
    canary = os.environ.get("FUZZ_CANARY")
    if canary and (canary in response.text or canary in str(response.headers)):
        with Path(os.environ["FUZZ_LEAKS"]).open("a") as leaks:
            leaks.write(f"{case.method} {case.path} {response.status_code}\n")


def _point_at_victim(parameters: Any) -> None:
    """Replace about half of the GUIDs by one of a victim."""
    guid = parameters.get("guid") if isinstance(parameters, dict) else None
    if isinstance(guid, str) and re.fullmatch("[0-9A-F]{32}", guid) and int(guid[0], 16) % 2:
        parameters["guid"] = VICTIMS[int(guid[1], 16) % len(VICTIMS)]


def _without_fraction(number: float) -> float | int:
    """Return 1 for 1.0: to JSON Schema both are integers, but the service accepts only 1."""
    return int(number) if number.is_integer() else number
