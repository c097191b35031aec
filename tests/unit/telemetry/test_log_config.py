"""The lines of the access log, which are rendered without structlog but equal its output."""

import asyncio
import importlib.util
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import structlog

from guidsvc.api.execution.pipeline import LOGGED_PATH
from guidsvc.http.headers.diagnostics import CACHE_STATUS
from guidsvc.monitoring.logs import access_log
from guidsvc.monitoring.logs import log_config as logs
from guidsvc.monitoring.logs.printable import escape
from guidsvc.telemetry.tracing import CURRENT, RequestTrace
from tests.support.backing_servers import ROOT

LINE = ("GET", '/guid/"\n\u00e9', 404, 1.25, "id-1", 'fe80::1%"\n')
NAMES = ("method", "path", "status", "ms", "request_id", "remote", "cache")


@pytest.fixture
def _configured() -> Iterator[None]:
    yield
    logs.configure("info", "json")


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("cache", [None, *CACHE_STATUS])
async def test_json_line_equals_the_one_of_structlog(capsys: pytest.CaptureFixture[str], cache: str | None) -> None:
    logs.configure("info", "json")
    log = access_log.access_log("info", "json")
    assert log is not None

    log(*LINE, cache)
    log(*LINE, cache)
    await asyncio.sleep(0)  # lines are written at the end of the turn
    fields = dict(zip(NAMES, (*LINE, cache), strict=True)) if cache else dict(zip(NAMES, LINE, strict=False))
    structlog.get_logger("guidsvc.access").info("request", **fields)

    first, second, reference = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert list(first) == list(reference)
    for line in (first, second):
        assert line | {"timestamp": ""} == reference | {"timestamp": ""}
        assert len(line["timestamp"]) == len(reference["timestamp"])
        assert line["timestamp"][:19] <= reference["timestamp"][:19]


@pytest.mark.usefixtures("_configured")
async def test_lines_of_several_workers_name_their_worker(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", worker=3)
    log = access_log.access_log("info", "json", worker=3)
    assert log is not None

    log(*LINE, "l1")
    await asyncio.sleep(0)
    structlog.get_logger("guidsvc.access").info("request", **dict(zip(NAMES, (*LINE, "l1"), strict=True)))
    logging.getLogger("another").info("said")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["worker"] for line in lines] == [3, 3, 3]
    assert list(lines[0]) == list(lines[1])


def test_lines_are_written_in_atomic_pieces_for_a_pipe() -> None:
    lines = ["a" * 30, "b" * 60, "c" * 10, "d" * 200, "e"]

    assert ["".join(piece) for piece in access_log.split_by_size(lines, 100)] == [
        "".join(lines[:3]),
        lines[3],
        lines[4],
    ]
    assert list(access_log.split_by_size([], 100)) == []


FAILURE = {"code": "invalid-request", "pointer": "/expire", "reason": "must be \u00e9", "caller": "key:a", "owner": "b"}


@pytest.mark.usefixtures("_configured")
async def test_json_line_of_a_failed_request_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    log = access_log.access_log("info", "json")
    assert log is not None

    log(*LINE, None, FAILURE)
    await asyncio.sleep(0)
    structlog.get_logger("guidsvc.access").info("request", **dict(zip(NAMES, LINE, strict=False)), **FAILURE)

    line, reference = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert list(line) == list(reference)
    assert line | {"timestamp": ""} == reference | {"timestamp": ""}


@pytest.mark.usefixtures("_configured")
async def test_longest_json_line_fits_into_one_write_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    log = access_log.access_log("info", "json", worker=63)
    assert log is not None
    for character in ("x", "\u00e9", "\0", "\U0001f600"):
        failure = dict.fromkeys(("code", "pointer", "reason", "caller", "owner"), character * 5000)
        log("OPTIONS", "\u00e9" * LOGGED_PATH, 400, 12345678.25, "i" * 128, "fe80::1%eth0", None, failure)
        await asyncio.sleep(0)
        line = capsys.readouterr().err
        assert len(line) <= access_log.PIPE_BUF
        assert json.loads(line)["reason"].startswith(character)


def test_human_readable_line_has_the_same_content(capsys: pytest.CaptureFixture[str]) -> None:
    log = access_log.access_log("info", "console")
    assert log is not None
    log("PUT", f"/guid/{'A' * 32}", HTTPStatus.CREATED, 0.5, "id-1", "::1", None)
    log("GET", f"/guid/{'A' * 32}", HTTPStatus.OK, 1.25, "id-1", "::1", "l1")
    log("PUT", f"/guid/{'A' * 32}", HTTPStatus.BAD_REQUEST, 3, "id-1", "::1", None, FAILURE)

    lines = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d .*", line) for line in lines)
    assert [line[9:] for line in lines] == [
        f"PUT /guid/{'A' * 32} 201 0.5ms request_id=id-1 remote=::1",
        f"GET /guid/{'A' * 32} 200 1.25ms cache=l1 request_id=id-1 remote=::1",
        f"PUT /guid/{'A' * 32} 400 3ms invalid-request /expire: must be \u00e9 request_id=id-1",
    ]


KEY = f"gs_{'a' * 12}_{'s3' * 20}_crc"


def escaped(text: str, times: int) -> str:
    """Return the text with its first character percent-encoded this many times."""
    encoded = text[0]
    for _ in range(times):
        encoded = "".join(f"%{ord(character):02x}" for character in encoded)
    return encoded + text[1:]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/guid/{KEY}", "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/{KEY.replace('_', '%5F')}", "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/{KEY.replace('_', '%5f')}/x", "/guid/gs_aaaaaaaaaaaa_.../x"),
        (f"/guid/{KEY.replace('_', '%255F')}", "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/{KEY.replace('_', '%2525255F')}", "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/%67{KEY[1:]}", "/guid/gs_aaaaaaaaaaaa_..."),
        ("/guid/" + "".join(f"%{ord(each):02x}" for each in KEY), "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/{escaped(KEY, 2)}", "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/{escaped(KEY, 4)}", "/guid/gs_aaaaaaaaaaaa_..."),
        (f"/guid/{escaped(KEY, 5)}", "..."),
        (f"/a%2F%0A{KEY}", "/a/%0Ags_aaaaaaaaaaaa_..."),
        ("/guid/eyJhbGciOiJFUzI1NiJ9%2EeyJzdWIiOiJhIn0%2Es3s3", "/guid/eyJ..."),
        ("/guid/%65%79JhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.s3s3", "/guid/eyJ..."),
        ("/guid/%41%00%zz%", "/guid/%41%00%zz%"),
        (f"/{'%25' * 25}", f"/{'%25' * 25}"),
    ],
)
@pytest.mark.usefixtures("_configured")
async def test_key_in_a_path_is_not_logged_in_any_encoding(
    capsys: pytest.CaptureFixture[str], path: str, expected: str
) -> None:
    for form in ("json", "console"):
        logs.configure("info", form)
        log = access_log.access_log("info", form)
        assert log is not None
        log("GET", path, 404, 1.0, "id-1", "::1", None)
        await asyncio.sleep(0)
        line = capsys.readouterr().err
        assert expected in line
        assert "s3s3" not in line


CONTROLS = "".join(map(chr, [*range(32), *range(0x7F, 0xA0)])) + "\u2028\u202e\u200b\ufeff\udc9b"
SHOW_CONTROLS = f"""
import logging
import structlog
from guidsvc.monitoring.logs import log_config as logs
from guidsvc.monitoring.logs import access_log

logs.configure("info", "console")
controls = {CONTROLS!r}
log = access_log.access_log("info", "console")
log("GET", "/" + controls, 404, 1.0, controls, controls, None, dict.fromkeys(("code", "pointer", "reason"), controls))
for control in controls:
    log(control, control, 404, 1.0, control, control, None, dict.fromkeys(("code", "pointer", "reason"), control))
logging.getLogger("theirs").warning("%s", controls)
structlog.get_logger("ours").warning(controls, field=controls, fields=[controls])
try:
    raise ValueError(controls)
except ValueError:
    structlog.get_logger("ours").exception("a fault")
"""


def test_control_characters_never_reach_a_terminal() -> None:
    """In any field, message or traceback; letters are shown unchanged."""
    result = subprocess.run([sys.executable, "-c", SHOW_CONTROLS], cwd=ROOT, capture_output=True, check=True)
    lines = result.stderr.decode().split("\n")

    assert sum("\\x9b31" in line or "\\x9b" in line for line in lines) >= 4
    assert any(line.count("\\x9b") >= 7 for line in lines), "each field of the request line is escaped"
    assert [line for line in lines if not line.isprintable()] == []
    assert escape("Zo\u00eb \u4e2d a b") == "Zo\u00eb \u4e2d a b"


def test_requests_are_not_logged_at_warning_level() -> None:
    assert access_log.access_log("warning", "json") is None


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("logger", [structlog.get_logger("ours"), logging.getLogger("theirs")])
def test_lines_logged_for_a_request_name_it(capsys: pytest.CaptureFixture[str], logger: Any) -> None:
    logs.configure("info", "json")
    token = CURRENT.set(RequestTrace("id-1"))
    logger.warning("first")
    CURRENT.reset(token)
    logger.warning("second")

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["request_id"]) == ("first", "id-1")
    assert "request_id" not in second


FAULT = """
import structlog
from guidsvc.monitoring.logs import log_config as logs

def fail():
    secret = "CAN" + "ARY"
    raise ValueError(len(secret))

logs.configure("info", "console")
try:
    fail()
except ValueError:
    structlog.get_logger().exception("a fault")
"""


def test_human_readable_traceback_hides_variables() -> None:
    """Structlog would use `rich`, which is installed with the tests and shows variables."""
    assert importlib.util.find_spec("rich")
    result = subprocess.run([sys.executable, "-c", FAULT], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "ValueError: 6" in result.stderr
    assert "CANARY" not in result.stderr
