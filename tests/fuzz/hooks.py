"""What Schemathesis is told in code, as the configuration beside it cannot say it."""

import os
import re
from pathlib import Path
from typing import Any

import schemathesis

TAGS = ("If-Match", "If-None-Match")
SECONDS = {"expire", "ttl", "spread", "if_below", "at_least"}
VICTIMS = os.environ.get("FUZZ_VICTIMS", "").split()
"""GUIDs that requests are to be turned to, with `tests.fuzz.access`."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Mend what Schemathesis holds for valid."""
    for name in TAGS:  # Schemathesis 4.32 takes 0 for a valid value of these, whatever their pattern says
        if case.headers and case.headers.get(name) in {0, "0"}:
            del case.headers[name]
    if case.query and case.query.get("wait"):  # for nothing: it would take most of the time
        case.query["wait"] = "0" if str(case.query["wait"]).isdecimal() else case.query["wait"]
    for name in SECONDS & case.body.keys() if isinstance(case.body, dict) else ():
        if isinstance(case.body[name], float):
            case.body[name] = _whole(case.body[name])
    if VICTIMS:
        _turn(case.path_parameters)
        for operation in case.body.get("operations") or () if isinstance(case.body, dict) else ():
            _turn(operation)


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Note whom the canary was told."""
    canary = os.environ.get("FUZZ_CANARY")
    if canary and (canary in response.text or canary in str(response.headers)):
        with Path(os.environ["FUZZ_SEEN"]).open("a") as seen:
            seen.write(f"{case.method} {case.path} {response.status_code}\n")


def _turn(named: Any) -> None:
    """Turn half of what names a GUID to one of the victims'."""
    guid = named.get("guid") if isinstance(named, dict) else None
    if isinstance(guid, str) and re.fullmatch("[0-9A-F]{32}", guid) and int(guid[0], 16) % 2:
        named["guid"] = VICTIMS[int(guid[1], 16) % len(VICTIMS)]


def _whole(number: float) -> float | int:
    """Return 1 for 1.0: to JSON Schema both are integers, and the service takes only one."""
    return int(number) if number.is_integer() else number
