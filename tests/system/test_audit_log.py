"""The audit log: one complete line per acknowledged write, without secrets, and no line lost."""

import asyncio
import json
import random
import re
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guidsvc.api.contract import problems
from guidsvc.auth.audit_log import LONGEST_NAME, AuditLog, FileLineWriter, open_audit_log
from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.caller import SCOPES, Caller
from guidsvc.domain.commands import PutCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import MAX_TIME, MAX_USER_CHARACTERS, Record
from guidsvc.errors import Contention, Forbidden, OutcomeUnknown, RateLimited, StoreUnavailable, Unauthorized
from guidsvc.monitoring.logs.access_log import PIPE_BUF
from guidsvc.services.guid_service import GuidService
from guidsvc.services.key_service import KeyService
from guidsvc.store import open_keys
from guidsvc.store.lease import LeaseClock
from guidsvc.telemetry.tracing import CURRENT, RequestTrace
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import ROOT, pdapt, service, wait_until
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore
from tests.support.http_client import Client, Reply
from tests.support.metrics import scrape, value
from tests.support.secured_service import KeyClient, SecuredService
from tests.support.supervised_service import is_responding, replace_workers, workers

PATH = f"/guid/{GUID}"
NDJSON = {"Content-Type": "application/x-ndjson"}
ALICE = Caller("alice", frozenset(SCOPES), "key:4rGcVd0Xq2Lb")
Line = dict[str, Any]


def lines_of(*paths: Path) -> list[Line]:
    """Parse every line of these files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def lines_of_writes(lines: list[Line]) -> list[Line]:
    """Return the lines that report a write."""
    return [line for line in lines if line["action"] != "denied"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


# Completeness


class Storm:
    """Clients that write at random, and a record of the acknowledged versions and their callers."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._guids = [f"{number:032X}" for number in range(12)]
        self._sent = 0
        self.written: dict[tuple[str, int], set[tuple[str, str]]] = {}
        self.deleted: Counter[str] = Counter()

    async def ask(self, name: str, caller: KeyClient) -> None:
        """Send 30 random requests, one after the other."""
        actions = (
            self._put,
            self._put,
            self._patch_nothing,
            self._patch,
            self._delete,
            self._create_idempotently,
            self._json_batch,
            self._ndjson_batch,
        )
        for _ in range(30):
            self._sent += 1
            await self._rng.choice(actions)(name, caller, {"X-Request-Id": f"request-{self._sent}"})

    def _body(self) -> dict[str, Any]:
        return {"user": f"{self._rng.random()}"}

    def _path(self) -> str:
        return f"/guid/{self._rng.choice(self._guids)}"

    def _record(self, guid: str, etag: str, name: str, request_id: str) -> None:
        self.written.setdefault((guid, int(etag.strip('"'))), set()).add((name, request_id))

    def _record_reply(self, reply: Reply, guid: str, name: str, headers: dict[str, str]) -> None:
        assert reply.status in {200, 201, 204, 404, 409, 412, 503}, reply
        if reply.status < 300:
            self._record(guid, reply.headers["ETag"], name, headers["X-Request-Id"])

    async def _put(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        path, version = self._path(), self._rng.choice([{}, {}, {"If-None-Match": "*"}])
        reply = await caller.ask("PUT", path, json=self._body(), headers=headers | version)
        self._record_reply(reply, path[6:], name, headers)

    async def _patch_nothing(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        """Change nothing: the reply has a version that another caller wrote."""
        path = self._path()
        reply = await caller.ask("PATCH", path, json={}, headers=headers)
        self._record_reply(reply, path[6:], name, headers)

    async def _patch(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        path, minimal = self._path(), {"Prefer": "return=minimal"}
        reply = await caller.ask("PATCH", path, json=self._body(), headers=headers | minimal)
        self._record_reply(reply, path[6:], name, headers)

    async def _delete(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        path = self._path()
        reply = await caller.ask("DELETE", path, headers=headers)
        assert reply.status in {204, 404, 503}, reply
        self.deleted[path[6:]] += reply.status == 204

    async def _create_idempotently(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        """Create one record, although the request is sent several times."""
        body, idempotent = self._body(), {"Idempotency-Key": headers["X-Request-Id"]}
        requests = [caller.ask("POST", "/guid", json=body, headers=headers | idempotent) for _ in range(3)]
        for reply in [
            *await asyncio.gather(*requests),
            await caller.ask("POST", "/guid", json=body, headers=idempotent),
        ]:
            self._record_reply(reply, reply.headers.get("Location", "")[6:], name, headers)

    def _operations(self) -> list[dict[str, Any]]:
        guids = [self._rng.choice(self._guids) for _ in range(6)]
        return [
            *({"guid": guid} | self._body() for guid in guids[:3]),
            *({"op": "get", "guid": guid} for guid in guids[3:]),
            *({"op": "delete", "guid": guid} for guid in guids[2:4]),
            *(self._body() for _ in range(2)),
        ]

    def _results(
        self, operations: list[dict[str, Any]], results: list[dict[str, Any]], name: str, headers: dict[str, str]
    ) -> None:
        for operation, result in zip(operations, results, strict=True):
            assert result["status"] in {200, 201, 204, 404, 503}
            if result["status"] == 204:
                self.deleted[result["guid"]] += 1
            elif result["status"] < 300 and operation.get("op") != "get":
                self._record(result["guid"], result["etag"], name, headers["X-Request-Id"])

    async def _json_batch(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        """Send a batch twice with one idempotency key, after a dry run."""
        operations, idempotent = self._operations(), {"Idempotency-Key": headers["X-Request-Id"]}
        body = {"operations": operations}
        assert (await caller.ask("POST", "/guid:batch?validate_only=true", json=body)).status == 200
        for _ in range(2):
            reply = await caller.ask("POST", "/guid:batch", json=body, headers=headers | idempotent)
        assert reply.headers["Idempotent-Replayed"] == "true"
        self._results(operations, reply.json["results"], name, headers)

    async def _ndjson_batch(self, name: str, caller: KeyClient, headers: dict[str, str]) -> None:
        operations = self._operations()
        body = b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)
        reply = await caller.ask("POST", "/guid:batch", body=body, headers=headers | NDJSON)
        self._results(operations, reply.lines, name, headers)


async def test_audit_log_has_exactly_the_acknowledged_changes(
    serving: Serving, combination: dict[str, str], clock: FakeClock, path: Path
) -> None:
    """Clients write concurrently by every kind of request; compare GUIDs, versions, callers and request ids."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    storm = Storm(random.Random(seed))
    async with serving(**combination, access="keys", audit_log=str(path)) as client:
        guarded = SecuredService(client, combination["store_url"], clock)
        held_keys = [await guarded.create_key(owner) for owner in ("alice", "alice", "alice", "bob")]
        held_keys.append(await guarded.create_key("root", "admin"))
        await asyncio.gather(*(storm.ask(f"key:{held.key.id}", KeyClient(client, held)) for held in held_keys))

    lines = lines_of_writes(lines_of(path))
    written = Counter((line["guid"], line["version"]) for line in lines if line["action"] != "delete")
    assert written == Counter(storm.written.keys())
    assert Counter(line["guid"] for line in lines if line["action"] == "delete") == +storm.deleted
    assert storm.deleted
    versions: dict[str, int] = {}
    for line in lines:
        assert (line["outcome"], line["remote"]) == ("done", "127.0.0.1")
        previous_version = versions.pop(line["guid"], None)
        assert (previous_version is None) == (line["action"] == "create"), line
        if line["action"] == "delete":
            assert line["version"] == previous_version
        else:
            assert (line["caller"], line["request_id"]) in storm.written[line["guid"], line["version"]]
            versions[line["guid"]] = line["version"]
    assert {line["caller_owner"] for line in lines if line["owner"] != "root" and "caller_owner" in line} <= {"root"}


async def test_line_has_caller_action_time_and_address(
    serving: Serving, sqlite_url: str, clock: FakeClock, path: Path
) -> None:
    """For a write of the owner and one of an admin; also behind a proxy."""
    async with serving(access="keys", audit_log=str(path), trusted_proxies="127.0.0.1") as client:
        guarded = SecuredService(client, sqlite_url, clock)
        alice, root = await guarded.create_key("alice"), await guarded.create_key("root", "admin")
        created = await KeyClient(client, alice).ask("PUT", PATH, json={"user": "a"}, headers={"X-Request-Id": "first"})
        proxied = {"X-Request-Id": "second", "X-Forwarded-For": "192.0.2.7"}
        assert (await KeyClient(client, root).ask("DELETE", PATH, headers=proxied)).status == 204

    first, second = lines_of(path)
    common = {"event": "audit", "guid": GUID, "version": int(created.headers["ETag"].strip('"')), "owner": "alice"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("timestamp"))
    second.pop("timestamp")
    assert first == common | {
        "action": "create",
        "caller": f"key:{alice.key.id}",
        "outcome": "done",
        "request_id": "first",
        "remote": "127.0.0.1",
    }
    assert second == common | {
        "action": "delete",
        "caller": f"key:{root.key.id}",
        "caller_owner": "root",
        "outcome": "done",
        "request_id": "second",
        "remote": "192.0.2.7",
    }


# Outcomes


def audited_service(
    store: GatedStore, clock: FakeClock, **more: Any
) -> tuple[GuidService, list[tuple[str, Record, str, str]]]:
    """Return a service and the list that its audit calls are added to."""
    audited: list[tuple[str, Record, str, str]] = []

    def audit(action: str, audited_record: Record, caller: Caller, outcome: str) -> None:
        audited.append((action, audited_record, caller.name, outcome))

    policy = RetentionPolicy(lifetime=3600, retention=600)
    service = GuidService(
        store,
        LeaseClock(store.fence),
        clock=clock,
        generator=lambda _: GUID,
        policy=policy,
        audit=audit,
        attempts=2,
        **more,
    )
    return service.acting_for(ALICE), audited


@pytest.mark.parametrize(
    "fault", [OutcomeUnknown("no answer"), ValueError("a fault"), asyncio.CancelledError()], ids=repr
)
async def test_unanswered_write_is_logged_with_unknown_outcome(clock: FakeClock, fault: BaseException) -> None:
    store = GatedStore()
    service, audited = audited_service(store, clock)
    stored = store.records[GUID] = record(clock(), owner="alice")
    fail_swaps(store, fault)
    for write in (
        service.put("0" * 32, PutCommand(user="b")),
        service.put(GUID, PutCommand(user="b")),
        service.delete(GUID),
    ):
        with pytest.raises(type(fault)):
            await write

    assert [(action, name, outcome) for action, _, name, outcome in audited] == [
        (action, ALICE.name, "unknown") for action in ("create", "update", "delete")
    ]
    assert [audited_record.version for _, audited_record, _, _ in audited][1:] == [stored.version + 1, stored.version]


def fail_swaps(store: GatedStore, fault: BaseException) -> None:
    """Make every swap of the store raise this error."""

    async def swap(
        old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        raise fault

    store.swap = swap  # type: ignore[method-assign]


async def test_failed_write_is_not_logged(clock: FakeClock) -> None:
    """The store is unavailable, a race is lost, the write is a dry run, or it changes nothing."""
    store = GatedStore()
    service, audited = audited_service(store, clock)
    store.records[GUID] = record(clock(), owner="alice", user="a")
    await service.put(GUID, PutCommand(user="a"))
    with service.dry_run() as dry_run:
        await dry_run.put(GUID, PutCommand(user="b"))
    store.loses_swaps = True
    with pytest.raises(Contention):
        await service.put(GUID, PutCommand(user="b"))
    fail_swaps(store, StoreUnavailable("not there"))
    with pytest.raises(StoreUnavailable):
        await service.delete(GUID)

    assert audited == []


async def test_record_past_retention_is_logged_as_created_anew(clock: FakeClock) -> None:
    """As the client sees it, although the store still has a record."""
    store = GatedStore()
    service, audited = audited_service(store, clock)
    store.records[GUID] = record(clock() - 86_400_000, owner="bob")
    await service.put(GUID, PutCommand(user="a"))

    assert [(action, audited_record.owner) for action, audited_record, _, _ in audited] == [("create", "alice")]


class ClaimedGuid:
    """A generator whose GUID is claimed without a deadline."""

    def __call__(self, now: int) -> str:
        return GUID

    async def not_after(self) -> int:
        return MAX_TIME * 1000


async def test_record_created_by_an_earlier_attempt_is_logged_as_found(clock: FakeClock) -> None:
    """The process that created it may have died before it wrote the line."""
    store = GatedStore()
    service, audited = audited_service(store, clock)
    for store.loses_swaps in (False, True):
        await service.create(PutCommand(user="a"), generator=ClaimedGuid())

    assert [(action, audited_record.guid, outcome) for action, audited_record, _, outcome in audited] == [
        ("create", GUID, "done"),
        ("create", GUID, "found"),
    ]


# Denied callers


async def test_denied_caller_is_logged_with_the_reason(
    serving: Serving, sqlite_url: str, clock: FakeClock, path: Path
) -> None:
    """Without a key, with an unknown key and with a key that lacks the scope, on every kind of request."""
    async with serving(access="keys", audit_log=str(path)) as client:
        guarded = SecuredService(client, sqlite_url, clock)
        held = await guarded.create_key("alice", "write")
        writer = KeyClient(client, held)
        assert (await writer.ask("PUT", PATH, json={"user": "a"})).status == 201
        replies = [
            await client.get(PATH),
            await client.post("/guid", {"user": "a"}),
            await client.get(PATH, headers={"Authorization": "Bearer nonsense"}),
            await writer.ask("GET", PATH),
            await writer.ask("GET", PATH),
            await writer.ask("HEAD", PATH),
            await writer.ask("DELETE", PATH),
            await writer.ask("GET", "/guid"),
            await writer.ask("GET", f"{PATH}?view=full"),
        ]
        operations = {"operations": [{"op": "get", "guid": GUID}, {"op": "delete", "guid": GUID}]}
        batch = await writer.ask("POST", "/guid:batch", json=operations)
        assert [result["status"] for result in batch.json["results"]] == [403, 403]

    name = f"key:{held.key.id}"
    denied = [line for line in lines_of(path) if line["action"] == "denied"]
    assert [line["request_id"] for line in denied] == [
        reply.headers["X-Request-Id"] for reply in [*replies, batch, batch]
    ]
    reported = [(line["reason"], line.get("needs"), line.get("caller"), line.get("caller_owner")) for line in denied]
    assert reported == [("unauthorized", None, None, None)] * 3 + [
        ("forbidden", needs, name, "alice")
        for needs in ("read", "read", "read", "delete", "read", "read", "read", "delete")
    ]
    assert {line["remote"] for line in denied} == {"127.0.0.1"}


@pytest.mark.parametrize("is_locked_out", [True, False])
async def test_rate_limited_caller_is_logged_by_known_name(
    serving: Serving, sqlite_url: str, clock: FakeClock, path: Path, is_locked_out: bool
) -> None:
    """A rate-limited key is named; a locked-out client has presented no valid key to name."""
    limits = {"login_limit": "1/minute"} if is_locked_out else {"rate_limit": "1/minute"}
    async with serving(access="keys", audit_log=str(path), **limits) as client:
        held = await SecuredService(client, sqlite_url, clock).create_key()
        credentials = {"Authorization": "Bearer nonsense"} if is_locked_out else held.headers
        await client.get(PATH, headers=credentials)
        reply = await client.get(PATH, headers=credentials)
        assert reply.status == 429, "the second request is over the limit"

    line = lines_of(path)[-1]
    assert (line["reason"], line["request_id"]) == ("rate-limited", reply.headers["X-Request-Id"])
    assert line.get("caller") == (None if is_locked_out else f"key:{held.key.id}")


def test_reasons_are_problem_codes(path: Path, clock: FakeClock) -> None:
    errors = (Unauthorized("?", invalid=True), Forbidden("read"), RateLimited("?", 1))
    with open_audit_log(str(path), clock=clock) as log:
        assert log is not None
        for error in errors:
            log.denied(error, ALICE)

    assert [line["reason"] for line in lines_of(path)] == [problems.problem_of(error).code for error in errors]


# Secrets


async def test_lines_hold_no_secrets_and_no_data_of_clients(
    serving: Serving, sqlite_url: str, clock: FakeClock, path: Path
) -> None:
    canary = "canary7f3a"
    body = {"user": canary, "metadata": {canary: canary}}
    async with serving(access="keys", audit_log=str(path)) as client:
        guarded = SecuredService(client, sqlite_url, clock)
        held, reader = await guarded.create_key(), await guarded.create_key("alice", "read")
        for issued in (held, reader):
            caller = KeyClient(client, issued)
            for method in ("PUT", "PATCH", "DELETE"):
                await caller.ask(method, PATH, json=None if method == "DELETE" else body)
            await caller.ask("POST", "/guid", json=body, headers={"Idempotency-Key": canary})
            await caller.ask("POST", "/guid:batch", json={"operations": [body]})
            await caller.ask("GET", f"{PATH}?access_token={issued.text}")
        wrong_key = keys.format_key(held.key.id, canary.ljust(keys.SECRET_CHARACTERS, "0"))
        for authorization in (f"Bearer {wrong_key}", f"Basic {held.text}", f"Bearer {canary}"):
            await client.get(PATH, headers={"Authorization": authorization})

    text = path.read_text()
    assert len(text.splitlines()) == 5 + 4 + 3
    assert canary not in text
    for issued in (held, reader):
        assert issued.text.split("_")[2] not in text
        assert issued.key.digest not in text
        assert issued.key.id in text


# Destination


def open_log(path: Path, clock: FakeClock) -> Iterator[AuditLog]:
    with open_audit_log(str(path), clock=clock) as log:
        assert log is not None
        yield log


@pytest.fixture
def log(path: Path, clock: FakeClock) -> Iterator[AuditLog]:
    yield from open_log(path, clock)


def write_line(log: AuditLog, clock: FakeClock, version: int) -> None:
    """Write a line for an update to this version."""
    log.changed("update", record(clock(), version=version, owner="alice"), ALICE, "done")


def versions(*paths: Path) -> list[int]:
    """Return the versions that the lines of these files report."""
    return [line["version"] for line in lines_of(*paths)]


def test_moved_file_is_reopened(log: AuditLog, clock: FakeClock, path: Path) -> None:
    """Rotation needs nothing else, and no line is lost meanwhile."""
    write_line(log, clock, 1)
    moved = path.rename(path.with_suffix(".1"))
    version = 1
    while not path.exists():
        version += 1
        write_line(log, clock, version)

    assert versions(moved, path) == list(range(1, version + 1))
    assert versions(path) == [version]
    assert path.stat().st_mode & 0o777 == 0o600, "only the owner may read it"


def test_lines_go_to_the_log_until_the_file_can_be_reopened(
    tmp_path: Path, clock: FakeClock, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("audit line not written", "audit log unavailable")
    folder = tmp_path / "logs"
    folder.mkdir()
    for log in open_log(folder / "audit.log", clock):
        moved = folder.rename(tmp_path / "moved")
        version = 0
        while not caplog.records:
            version += 1
            write_line(log, clock, version)
        folder.mkdir()
        write_line(log, clock, version + 1)

    outage, unwritten = [each.msg for each in caplog.records if each.levelname in {"WARNING", "ERROR"}]
    assert isinstance(outage, dict)
    assert isinstance(unwritten, dict)
    assert (outage["event"], unwritten["event"]) == (
        "audit log unavailable, writing its lines here",
        "audit line not written",
    )
    moved_versions = versions(moved / "audit.log")
    assert [*moved_versions, unwritten["line"]["version"], *versions(folder / "audit.log")] == list(
        range(1, version + 2)
    )


def test_existing_lines_are_preserved(log: AuditLog, clock: FakeClock, path: Path) -> None:
    for logs in ([log], open_log(path, clock)):
        for opened_log in logs:
            write_line(opened_log, clock, 1)

    assert versions(path) == [1, 1]


async def test_key_changes_are_logged(serving: Serving, sqlite_url: str, clock: FakeClock, path: Path) -> None:
    """The lines have key ids and no key texts; a second revocation adds no line."""
    async with serving(access="keys", audit_log=str(path)) as client:
        held = await SecuredService(client, sqlite_url, clock).create_key("root", "admin")
        root = KeyClient(client, held)
        created = await root.ask("POST", "/keys", json={"owner": "alice", "scopes": ["read"]})
        location = created.headers["Location"]
        rotated = await root.ask("POST", f"{location}/rotation", json={})
        for _ in range(2):
            assert (await root.ask("PATCH", location, json={"note": "of Ann"})).status == 200
        for _ in range(2):
            assert (await root.ask("DELETE", location)).status == 204

    lines = lines_of(path)
    assert [line.pop("action") for line in lines] == ["key-create", "key-rotate", "key-update", "key-revoke"]
    for line in lines:
        assert (line["key"], line["owner"], line["outcome"]) == (created.json["id"], "alice", "done")
        assert (line["caller"], line["caller_owner"]) == (f"key:{held.key.id}", "root")
    assert [line["request_id"] for line in lines[:2]] == [
        created.headers["X-Request-Id"],
        rotated.headers["X-Request-Id"],
    ]
    for text in (created.json["key"], rotated.json["key"]):
        assert text.split("_")[2] not in path.read_text()
    assert "of Ann" not in path.read_text()


class SilentKeyRepository:
    """A key repository whose store does not answer."""

    async def get(self, key_id: str, /) -> ApiKey | None:
        return None

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        return []

    async def swap(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        raise OutcomeUnknown("no answer")


async def test_key_of_unknown_outcome_is_logged(log: AuditLog, clock: FakeClock, path: Path) -> None:
    with pytest.raises(OutcomeUnknown):
        await (
            KeyService(SilentKeyRepository(), clock=clock, audit=log.key_changed)
            .acting_for(ALICE)
            .create("bob", ["read"])
        )

    (line,) = lines_of(path)
    assert (line["action"], line["owner"], line["caller"], line["outcome"]) == (
        "key-create",
        "bob",
        ALICE.name,
        "unknown",
    )
    assert "request_id" not in line, "no request caused it"


def test_longest_line_is_atomic_on_a_pipe(log: AuditLog, clock: FakeClock, path: Path) -> None:
    longest = "\U0001f600" * MAX_USER_CHARACTERS
    token = CURRENT.set(RequestTrace("x" * 128, "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%interface"))
    caller = Caller(longest, frozenset(SCOPES), f"jwt:{longest * 100}")
    log.changed("update", record(clock(), owner="'" + longest[1:]), caller, "unknown")
    CURRENT.reset(token)

    (line,) = lines_of(path)
    assert len(line["caller"]) == LONGEST_NAME
    assert len(path.read_bytes()) <= PIPE_BUF


def test_owner_cannot_hide_or_reorder_a_line(log: AuditLog, clock: FakeClock, path: Path) -> None:
    hidden, visible = "\u202e\u2066\u061c\x9b\u2028\ufeff", "Zürich \u05d0 \U0001f469\u200d\U0001f680"
    log.changed("update", record(clock(), owner=hidden + visible), Caller("a", frozenset(SCOPES), "key:a"), "done")
    text = path.read_text()
    assert not set(hidden) & set(text)
    assert visible in text
    assert json.loads(text)["owner"] == hidden + visible


def test_line_of_hidden_owners_is_atomic_on_a_pipe(log: AuditLog, clock: FakeClock, path: Path) -> None:
    longest = "\u202e" * MAX_USER_CHARACTERS
    token = CURRENT.set(RequestTrace("x" * 128, "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%interface"))
    caller = Caller(longest, frozenset(SCOPES), f"jwt:{'d' * LONGEST_NAME}")
    log.changed("update", record(clock(), owner="'" + longest[1:]), caller, "unknown")
    CURRENT.reset(token)
    assert len(path.read_bytes()) <= PIPE_BUF


async def test_unwritable_audit_line_goes_to_the_log_without_errors(
    serving: Serving, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("audit line not written", "audit log unavailable")
    async with serving(audit_log="/dev/full") as client:
        created = await client.put(PATH, {"user": "a"})
        assert created.status == 201
        assert value(await scrape(client), "guidsvc_audit_failures_total") == 1

    (unwritten,) = [each.msg for each in caplog.records if "audit line not written" in each.getMessage()]
    assert isinstance(unwritten, dict)
    assert (unwritten["line"]["guid"], unwritten["line"]["outcome"]) == (GUID, "done")
    assert unwritten["line"]["request_id"] == created.headers["X-Request-Id"]


@contextmanager
def file_size_limit(max_bytes: int) -> Iterator[None]:
    """Limit the size of the files that this process writes, within the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_partial_line_does_not_spoil_the_next(path: Path) -> None:
    """Also when another process wrote the partial line."""
    with path.open("ab", buffering=0) as file, path.open("ab", buffering=0) as other_file:
        writer, other_writer = FileLineWriter(file.fileno), FileLineWriter(other_file.fileno)
        writer.write(b"first\n")
        with file_size_limit(9):
            for line_writer in (writer, other_writer):
                with pytest.raises(OSError, match=r".+"):
                    line_writer.write(b"second\n")
        for line_writer in (other_writer, writer, other_writer):
            line_writer.write(b"third\n")

    assert path.read_bytes().split() == [b"first", b"sec", b"third", b"third", b"third"]


def test_unwritable_file_stops_the_start_with_one_line(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "--audit-log", "missing/audit.log")

    assert result.returncode == 2
    assert result.stderr == (
        "pdapt.py: --audit-log: cannot write missing/audit.log: No such file or directory; create its folder, "
        "or name another file\n"
    )


@pytest.mark.parametrize(
    ("options", "is_written"),
    [
        ((), False),
        (("--audit-log", "stderr"), True),
        (("--access", "keys"), True),
        (("--access", "keys", "--audit-log", "off"), False),
    ],
)
async def test_audit_log_is_standard_error_with_access_control(
    tmp_path: Path, options: tuple[str, ...], is_written: bool
) -> None:
    with service(tmp_path, "--log-format", "json", *options) as running:
        key, text = keys.generate("alice", SCOPES, 0)
        async with open_keys(f"sqlite:///{tmp_path / 'guidsvc.db'}") as key_repository:
            await key_repository.swap(None, key)
        client = Client(running.port)
        reply = await client.put(PATH, {"user": "a"}, headers={"Authorization": f"Bearer {text}"})
        await client.aclose()
        assert reply.status == 201
        audited = [line for line in running.log.read_text().splitlines() if '"event":"audit"' in line]
        assert [json.loads(line)["guid"] for line in audited] == [GUID] * is_written


async def test_audit_lines_on_a_terminal_are_for_people(tmp_path: Path) -> None:
    """The format `console` applies to a terminal; a file gets JSON."""
    with service(tmp_path, "--log-format", "console", "--access", "keys") as running:
        client = Client(running.port)
        reply = await client.put(PATH, {"user": "a"})
        await client.aclose()
        log = running.log.read_text()
    (line,) = [line for line in log.splitlines() if " audit denied " in line]

    assert '"event"' not in log
    assert re.fullmatch(r"[0-9:]{8} audit denied reason=unauthorized request_id=\S+ remote=127.0.0.1", line)
    assert f"request_id={reply.headers['X-Request-Id']}" in line
    assert len(line) <= 120
    with service(tmp_path, "--log-format", "console", "--audit-log", "audit.log") as running:
        client = Client(running.port)
        assert (await client.put(PATH, {"user": "a"})).status == 201
        await client.aclose()
    assert [line["guid"] for line in lines_of(tmp_path / "audit.log")] == [GUID]


async def put_many(port: int, name: int, is_over: Callable[[], bool]) -> set[tuple[str, int]]:
    """Put records until the test is over; return the acknowledged GUIDs and versions."""
    client, acknowledged, number = Client(port), set(), 0
    while not is_over():
        number += 1
        guid = f"{name:016X}{number % 5:016X}"
        reply = await client.put(f"/guid/{guid}", {"user": f"{number}"})
        assert reply.status in {200, 201, 503}, reply
        if reply.status < 300:
            acknowledged.add((guid, int(reply.headers["ETag"].strip('"'))))
        await client.aclose()  # so that another worker may get the next connection
    return acknowledged


@pytest.mark.slow
async def test_workers_write_whole_lines_to_one_file_while_replaced(tmp_path: Path, redis_url: str, path: Path) -> None:
    """The log file is moved away meanwhile, so the lines are in two files."""
    over = asyncio.Event()
    with workers(tmp_path, redis_url, "--audit-log", str(path)) as running:
        tasks = [asyncio.create_task(put_many(running.port, name, over.is_set)) for name in range(8)]
        await asyncio.to_thread(wait_until, lambda: path.stat().st_size > 20_000, "lines", running.log)
        moved = path.rename(tmp_path / "audit.1")
        await asyncio.to_thread(replace_workers, running)
        size = path.stat().st_size
        await asyncio.to_thread(wait_until, lambda: path.stat().st_size > size + 20_000, "more", running.log)
        over.set()
        acknowledged = set.union(*await asyncio.gather(*tasks))
        assert await asyncio.to_thread(is_responding, running)

    logged = [(line["guid"], line["version"]) for line in lines_of(moved, path)]
    assert Counter(logged) == Counter(acknowledged)


def test_docs_name_every_member(path: Path) -> None:
    operations_guide = (ROOT / "docs" / "operations.md").read_text()
    section = operations_guide.partition("\n## The audit log\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:])))
    example = json.loads(re.findall(r"^    (\{.*\})$", section, re.MULTILINE)[0])

    assert documented == {*example, "key", "caller_owner", "count", "reason", "needs"}
