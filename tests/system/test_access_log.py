"""The access log of the running service: an operator finds the cause of a failed request by its request id."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.backing_servers import Service, service, wait_until
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply
from tests.support.secured_service import KeyClient, SecuredService

PATH = f"/guid/{GUID}"


def line_of(running: Service, reply: Reply) -> dict[str, Any]:
    """Return the access line of a request, by its request id."""
    request_id = reply.headers["X-Request-Id"]

    def request_lines() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("request_id") == request_id and line["event"] == "request"]

    wait_until(lambda: bool(request_lines()), f"the line of {request_id}", running.log)
    (line,) = request_lines()
    return line


def failure_of(line: dict[str, Any]) -> dict[str, Any]:
    """Return the members that give the cause of a failure."""
    known = {"method", "path", "status", "ms", "request_id", "remote", "event", "logger", "level", "timestamp"}
    return {name: value for name, value in line.items() if name not in known}


@pytest.mark.parametrize("server", ["httptools", "tornado"])
async def test_line_of_a_failed_request_says_why(tmp_path: Path, server: str) -> None:
    with service(tmp_path, "--log-format", "json", "--server", server) as running:
        client = Client(running.port)
        rejected = await client.put(PATH, {"user": "a", "expire": "tomorrow"})
        members = failure_of(line_of(running, rejected))
        assert members.pop("reason") == rejected.json["errors"][0]["detail"]
        assert members == {"code": "invalid-request", "pointer": "/expire"}

        for reply, expected in (
            (await client.get("/guid?limit=x"), {"code": "invalid-request", "parameter": "limit"}),
            (await client.get(PATH, headers={"If-None-Match": "x"}), {"code": "invalid-request"}),
            (await client.get("/guid/x"), {"code": "invalid-guid"}),
            (await client.get(PATH), {"code": "not-found"}),
            (await client.ask("HEAD", PATH), {"code": "not-found"}),
            (await client.get("/nowhere"), {"code": "not-found"}),
            (await client.post(PATH, {}), {"code": "method-not-allowed"}),
        ):
            members = failure_of(line_of(running, reply))
            assert members.pop("reason")
            assert members.items() >= expected.items()
        assert failure_of(line_of(running, await client.put(PATH, {"user": "a"}))) == {}
        await client.aclose()


async def test_line_of_a_failed_request_names_its_caller(
    serving: Serving, sqlite_url: str, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the name of its key and its owner, never by the key itself, on every path of a request."""
    async with serving(access="keys", access_log=True, log_format="json", audit_log="off") as client:
        held = await SecuredService(client, sqlite_url, clock).create_key("alice", scopes="read")
        reader = KeyClient(client, held)
        replies = [
            await reader.ask("PUT", PATH, json={"user": "a"}),
            await reader.ask("POST", "/guid", json={"user": "a"}),
            await reader.ask("GET", PATH),
            await client.get(PATH),
        ]
    text = capsys.readouterr().err
    lines = {line["request_id"]: line for line in map(json.loads, text.splitlines()) if line["event"] == "request"}
    failures = [failure_of(lines[reply.headers["X-Request-Id"]]) for reply in replies]
    assert [failure["code"] for failure in failures] == ["forbidden", "forbidden", "not-found", "unauthorized"]
    assert [failure.get("owner") for failure in failures] == ["alice", "alice", "alice", None]
    assert all(failure["caller"].startswith("key:") for failure in failures[:3])
    assert held.text not in text


@pytest.mark.parametrize("form", ["json", "console"])
async def test_status_is_a_number_in_every_format(tmp_path: Path, form: str) -> None:
    with service(tmp_path, "--log-format", form) as running:
        client = Client(running.port)
        for path in ("/livez", PATH, "/guid", "/nowhere"):
            await client.get(path)
        await client.aclose()
        running.stop()
    text = running.log.read_text()
    assert [f" {status} " in text or f'"status": {status}' in text for status in (200, 404)] == [True, True]
    assert "HTTPStatus" not in text
    assert max(map(len, text.splitlines())) <= 120 or form == "json"
