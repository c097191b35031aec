"""The access line for people: one terminal line, for any request."""

import os
import pty
import re
import subprocess
import sys
from unicodedata import east_asian_width

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidsvc.monitoring.logs.console_line import MAX_COLUMNS, MIN_COLUMNS, console_line, event_line, wrapped_line
from tests.support.backing_servers import ROOT

START = "16:22:48 PUT"
PATH = "/guid/9094E4C980C74043A4B586B420E69DDF"
LONG_REASON = "must be Unix time in seconds, as a string of digits or an integer"
FAILURE = {"code": "invalid-request", "pointer": "/expire", "reason": LONG_REASON, "caller": "key:a", "owner": "b"}
REQUEST_ID = "5f0c2b7a1d3e4f600000000001a2b3c4"
EXTRAS = {"cache": None, "request_id": REQUEST_ID, "remote": "192.0.2.7", "worker": None}

_TEXT = st.text(st.characters(exclude_categories=["C", "M", "Z"]), max_size=250)


def width_of(line: str) -> int:
    """Return the number of terminal columns of a line."""
    return sum(1 + (east_asian_width(character) in {"W", "F"}) for character in line)


@pytest.mark.parametrize(
    ("path", "failure", "width", "line"),
    [
        (PATH, None, 80, f"{START} {PATH} 201 0.5ms remote=192.0.2.7"),
        (PATH, None, 120, f"{START} {PATH} 201 0.5ms request_id={EXTRAS['request_id']}"),
        (f"{PATH}/{'x' * 160}", None, 60, f"{START} /guid/9094E4C980C74043A4B5...xxxxxxxx 201 0.5ms"),
        (PATH, FAILURE, 80, f"{START} /guid/9094E4...DDF 201 0.5ms invalid-request /exp... id=...01a2b3c4"),
        (
            PATH,
            FAILURE,
            120,
            f"{START} /guid/9094E4...DDF 201 0.5ms invalid-request /expire: {LONG_REASON[:35]}... id=...01a2b3c4",
        ),
        (
            "/nowhere",
            {"code": "not-found", "reason": "No path"},
            120,
            f"{START} /nowhere 201 0.5ms not-found: No path request_id={EXTRAS['request_id']} remote=192.0.2.7",
        ),
    ],
)
def test_line_fits_by_shortening_its_path_and_reason(
    path: str, failure: dict[str, str] | None, width: int, line: str
) -> None:
    assert console_line(START, path, (201, 0.5), failure, EXTRAS, width=width) == line


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_line_of_a_failure_ends_with_its_request_id(method: str, width: int) -> None:
    failure = {"code": "precondition-required", "reason": "x" * 200}
    line = console_line(f"16:22:48 {method}", PATH, (428, 1000.55), failure, EXTRAS, width=width)

    assert line.endswith(" id=...01a2b3c4")
    assert " precondition-" in line


@pytest.mark.parametrize(
    ("path", "reason", "expected"),
    [
        (PATH, f"No GUID {PATH[6:]} is registered.", "No such GUID is registered."),
        (PATH.lower(), f"GUID {PATH[6:]} has expired.", "This GUID has expired."),
        (PATH, f"The record of GUID {PATH[6:]} changed.", "The record of this GUID changed."),
        ("/guid", f"GUID {PATH[6:]} has expired.", f"GUID {PATH[6:]} has expired."),
    ],
)
def test_reason_does_not_repeat_the_guid_of_the_path(path: str, reason: str, expected: str) -> None:
    line = console_line(START, path, (404, 0.5), {"code": "x", "reason": reason}, {}, width=120)

    assert f" x: {expected}" in line


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "audit update done caller=key:4rGcVd0Xq2Lb guid=9094E4C980C7...DDF"),
        (105, "audit update done caller=key:4rGcVd0Xq2Lb guid=9094E4C980C7...DDF owner=alice id=...01a2b3c4"),
        (120, f"audit update done caller=key:4rGcVd0Xq2Lb guid={PATH[6:]} owner=alice id=...01a2b3c4"),
    ],
)
def test_event_line_has_the_fields_that_fit(width: int, line: str) -> None:
    fields = {"caller": "key:4rGcVd0Xq2Lb", "guid": PATH[6:], "owner": "alice", "request_id": str(EXTRAS["request_id"])}
    shown = event_line("audit update done", fields, width=width)

    assert re.fullmatch(r"[0-9:]{8} .*", shown)
    assert shown[9:] == line


@given(_TEXT, _TEXT, st.integers(MIN_COLUMNS, MAX_COLUMNS))
def test_no_event_line_is_wider_than_the_terminal(event: str, value: str, width: int) -> None:
    assert width_of(event_line(event, {"a": value, "request_id": value}, width=width)) <= width


@given(
    st.text("ABC", min_size=1, max_size=10),
    _TEXT,
    st.floats(0, 1e7),
    st.none() | st.fixed_dictionaries({"code": st.just("precondition-required"), "pointer": _TEXT, "reason": _TEXT}),
    st.integers(MIN_COLUMNS, MAX_COLUMNS),
)
def test_no_line_is_wider_than_the_terminal(
    method: str, path: str, ms: float, failure: dict[str, str] | None, width: int
) -> None:
    line = console_line(f"16:22:48 {method}", path, (400, round(ms, 2)), failure, EXTRAS, width=width)
    assert width_of(line) <= width
    assert re.search(r" 400 [0-9.e+]+ms", line)


@pytest.mark.parametrize(
    ("head", "fields", "line"),
    [
        ("10:00:00 [info] said", {"a": 1, "b": "c", "d": "e f"}, "10:00:00 [info] said a=1 b=c d='e f'"),
        ("10:00:00 said more", {"a": "x" * 42, "b": 2}, f"10:00:00 said more\n         a={'x' * 42} b=2"),
        ("10:00:00 said", {"a": "x" * 50}, f"10:00:00 said\n         a={'x' * 49}\n         x"),
        ("\x1b[1m10:00:00\x1b[0m said", {"a": 1}, "\x1b[1m10:00:00\x1b[0m said a=1"),
    ],
)
def test_fields_of_a_long_line_are_wrapped(head: str, fields: dict[str, object], line: str) -> None:
    assert wrapped_line(head, fields, width=60) == line


@given(_TEXT, _TEXT, st.integers(MIN_COLUMNS, MAX_COLUMNS))
def test_no_wrapped_line_is_wider_than_the_terminal(event: str, value: str, width: int) -> None:
    text = wrapped_line(f"10:00:00 {event}", {"a": value, "b": [value]}, width=width)

    assert all(width_of(line) <= width for line in text.split("\n"))


SHOW = """
from guidsvc.monitoring.logs import log_config as logs
from guidsvc.monitoring.logs import access_log
import structlog

logs.configure("info", "auto")
log = access_log.access_log("info", "auto")
log("GET", "/guid/" + "A" * 194, 200, 0.5, "i" * 32, "::1", "l1")
log("GET", "/guid/" + "A" * 194, 404, 0.5, "i" * 32, "::1", None, {"code": "not-found", "reason": "none " * 40})
structlog.get_logger().info("said", number=1)
"""
SHOW_EVENT = """
import logging
import structlog
from guidsvc.monitoring.logs import log_config as logs

logs.configure("info", "auto")
structlog.get_logger("guidsvc.x").warning("redis unavailable, reading from store", why="refused " * 9, zeta=1, beta=2)
logging.getLogger("another").warning("theirs " * 30)
try:
    raise ValueError("why")
except ValueError:
    structlog.get_logger("guidsvc.x").exception("a fault", path="/a" * 60)
"""


def on_terminal(columns: int, code: str = SHOW, **environment: str) -> list[str]:
    """Run this code with standard error on a terminal of this width; return its lines."""
    main, terminal = pty.openpty()
    try:
        subprocess.run(["stty", "cols", str(columns)], stdin=terminal, check=True)
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stderr=terminal, env=os.environ | environment, check=True
        )
        return os.read(main, 65536).decode().splitlines()
    finally:
        os.close(main)
        os.close(terminal)


@pytest.mark.parametrize(("columns", "width"), [(80, 80), (300, MAX_COLUMNS), (20, MIN_COLUMNS)])
def test_requests_take_one_line_of_a_terminal(columns: int, width: int) -> None:
    first, second, _ = on_terminal(columns, NO_COLOR="1", TERM="xterm")
    assert len(first) == len(second) == width
    assert " 200 0.5ms" in first
    assert " 404 0.5ms not-found: none" in second


@pytest.mark.parametrize("columns", [80, 120])
def test_events_fit_the_terminal_with_what_matters_first(columns: int) -> None:
    lines = on_terminal(columns, SHOW_EVENT, NO_COLOR="1", TERM="xterm")
    text = " ".join(map(str.strip, lines))

    assert all(len(line) <= columns for line in lines)
    assert lines[0].endswith(" [warning  ] redis unavailable, reading from store")
    assert re.search("why='(refused ){9}' zeta=1 beta=2 logger=guidsvc.x", text), text
    assert re.search(r"\[warning  \] (theirs ){30}logger=another", text), text
    assert lines[-1] == "ValueError: why"


def test_colors_are_for_terminals_without_no_color() -> None:
    assert all("\x1b[" in line for line in on_terminal(80, NO_COLOR="", TERM="xterm"))
    assert "\x1b[32m200\x1b[0m" in on_terminal(80, NO_COLOR="", TERM="xterm")[0]
    for environment in ({"NO_COLOR": "1", "TERM": "xterm"}, {"NO_COLOR": "", "TERM": "dumb"}):
        assert not any("\x1b" in line for line in on_terminal(80, **environment))
