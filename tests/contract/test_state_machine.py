"""The real service beside a model in memory: both give the same result for any sequence of requests.

Hypothesis draws the requests, moves the clock and restarts the service; a failing run is printed as
a program that reproduces it.
"""

import asyncio
import functools
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.conftest import FakeClock, Serving
from tests.support.example_count import example_count
from tests.support.http_client import Client, Reply

DAY = 86_400
LIFETIME, RETENTION = 30 * DAY, 7 * DAY
NUMBERS = itertools.count(1)

USERS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda text: not text.isspace()
)
METADATA = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(), max_size=3)
INDEXES = st.integers(0, 2)
TTLS = st.sampled_from([1, 2, 59, 60, DAY, 40 * DAY])
MAX_LIFE = 31 * DAY
"""Renewals reach it in some runs."""
OFFSETS = st.sampled_from([-RETENTION - 1, -1, 0, 1, 60, DAY, 40 * DAY])
INVALID_MEMBERS = st.sampled_from(
    [{"user": ""}, {"expire": -1}, {"metadata": []}, {"color": "red"}, {"user": None}, {"guid": "x"}]
)


@dataclass
class ModelRecord:
    """A record in the model."""

    user: str
    expire: int
    metadata: dict[str, Any]
    updated: int
    tag: str
    created: int

    @property
    def is_revoked(self) -> bool:
        """Whether it had already expired when it was written."""
        return self.expire <= self.updated

    def wire(self, guid: str) -> dict[str, Any]:
        """Return the record as a client sees it."""
        body = {"guid": guid, "expire": str(self.expire), "user": self.user}
        return body | ({"metadata": self.metadata} if self.metadata else {})


class ServiceAndModel(RuleBasedStateMachine):
    """The service and the model, on three GUIDs that no other run uses."""

    def __init__(self, serving: Serving, clock: FakeClock, urls: dict[str, str], runner: asyncio.Runner) -> None:
        super().__init__()
        self._serving, self._clock, self._urls, self._runner = serving, clock, urls, runner
        number = next(NUMBERS)
        self._guids = [f"{number:016X}{index:016X}" for index in range(3)]
        self._model: dict[str, ModelRecord] = {}

    # The service

    @initialize()
    def start(self) -> None:
        self._stack = AsyncExitStack()
        self._client: Client = self._runner.run(
            self._stack.enter_async_context(self._serving(**self._urls, max_life=MAX_LIFE))
        )

    @rule()
    def restart(self) -> None:
        self.teardown()
        self.start()

    def teardown(self) -> None:
        self._runner.run(self._stack.aclose())

    def _ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
        return self._runner.run(self._client.ask(method, path, json=body, headers=headers))

    # Requests

    @rule(
        index=INDEXES,
        user=st.none() | USERS,
        offset=st.none() | OFFSETS,
        metadata=st.none() | METADATA,
        as_text=st.booleans(),
    )
    def put(
        self, index: int, user: str | None, offset: int | None, metadata: dict[str, Any] | None, *, as_text: bool
    ) -> None:
        guid = self._guids[index]
        expire = None if offset is None else self._clock.seconds + offset
        expire_member = str(expire) if as_text and expire is not None else expire
        body = {"user": user, "expire": expire_member, "metadata": metadata}
        body = {name: value for name, value in body.items() if value is not None}
        known = self._current(guid)
        reply = self._ask("PUT", f"/guid/{guid}", body)
        if known is None and user is None:
            assert (reply.status, reply.json["code"]) == (400, "invalid-request")
            return
        if known is not None and known.is_revoked and expire is None:
            self._expect_expired(reply, known)
            return
        if self._is_limited(known, expire):
            self._expect_limited(reply, known)
            return
        assert reply.status == (201 if known is None else 200)
        self._expect_written(guid, known, reply, user=user, expire=expire, metadata=metadata)

    @rule(user=USERS, offset=st.none() | OFFSETS)
    def post(self, user: str, offset: int | None) -> None:
        expire = None if offset is None else self._clock.seconds + offset
        body = {"user": user} | ({} if expire is None else {"expire": expire})
        reply = self._ask("POST", "/guid", body)
        if self._is_limited(None, expire):
            self._expect_limited(reply, None)
            return
        assert reply.status == 201
        assert reply.json["guid"] not in self._model
        self._expect_written(reply.json["guid"], None, reply, user=user, expire=expire, metadata=None)
        self._guids[1] = reply.json["guid"]

    @rule(index=INDEXES, user=USERS, ttl=TTLS)
    def put_ttl(self, index: int, user: str, ttl: int) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        reply = self._ask("PUT", f"/guid/{guid}", {"user": user, "ttl": ttl})
        expire = self._after(ttl)
        if self._is_limited(known, expire):
            self._expect_limited(reply, known)
            return
        assert reply.status == (201 if known is None else 200)
        self._expect_written(guid, known, reply, user=user, expire=expire, metadata=None)

    @rule(index=INDEXES, ttl=TTLS, if_below=st.none() | TTLS, revive=st.booleans())
    def renew(self, index: int, ttl: int, if_below: int | None, *, revive: bool) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        body = {"ttl": ttl, "revive": revive} | ({} if if_below is None else {"if_below": if_below})
        reply = self._ask("POST", f"/guid/{guid}/renewal", body)
        if known is None:
            assert reply.status == 404
            return
        is_live = known.expire * 1000 > self._clock.now
        if not is_live and not revive:
            self._expect_expired(reply, known)
            return
        requested, end = self._after(ttl), self._end(known)
        is_needed = if_below is None or known.expire * 1000 - self._clock.now < if_below * 1000
        longest = max(min(requested, end), known.expire if is_live else 0)
        has_nothing_left = end <= known.expire < requested if is_live else end * 1000 - self._clock.now < 1000
        if is_needed and has_nothing_left:
            self._expect_limited(reply, known)
            return
        self._expect_renewed(guid, known, reply, expire=longest if is_needed else known.expire)
        assert reply.json["capped"] is (longest < requested)

    @rule(index=INDEXES)
    def get(self, index: int) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        reply = self._ask("GET", f"/guid/{guid}")
        if known is None:
            assert reply.status == 404
        elif known.expire <= self._clock.seconds:
            assert (reply.status, reply.json["expired_at"]) == (410, str(known.expire))
        else:
            assert (reply.status, reply.json) == (200, known.wire(guid))
            assert reply.headers["ETag"] == known.tag

    @rule(index=INDEXES)
    def delete(self, index: int) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        assert self._ask("DELETE", f"/guid/{guid}").status == (404 if known is None else 204)
        self._model.pop(guid, None)

    @rule(index=INDEXES, user=USERS, condition=st.sampled_from(["this", "another", "any", "none"]))
    def put_if(self, index: int, user: str, condition: str) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        tag = known.tag if known else '"7"'
        headers = {
            "this": {"If-Match": tag},
            "another": {"If-Match": '"7"'},
            "any": {"If-Match": "*"},
            "none": {"If-None-Match": "*"},
        }[condition]
        reply = self._ask("PUT", f"/guid/{guid}", {"user": user}, headers)
        if condition == "another" or (known is None) != (condition == "none"):
            assert reply.status == 412
            assert reply.headers.get("ETag") == (known.tag if known else None)
        elif known is not None and known.is_revoked:
            self._expect_expired(reply, known)
        elif self._is_limited(known, None):
            self._expect_limited(reply, known)
        else:
            assert reply.status == (201 if known is None else 200)
            self._expect_written(guid, known, reply, user=user, expire=None, metadata=None)

    @rule(
        index=INDEXES,
        user=st.none() | USERS,
        offset=st.none() | OFFSETS,
        metadata=st.none() | st.dictionaries(st.sampled_from("abc"), st.none() | st.integers()),
    )
    def patch(self, index: int, user: str | None, offset: int | None, metadata: dict[str, Any] | None) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        expire = None if offset is None else self._clock.seconds + offset
        members = {"user": user, "expire": expire}
        body = {name: value for name, value in members.items() if value is not None} | {"metadata": metadata}
        reply = self._ask("PATCH", f"/guid/{guid}", body)
        if known is None:
            assert reply.status == 404
            return
        if known.expire <= self._clock.seconds and expire is None:
            self._expect_expired(reply, known)
            return
        if self._is_limited(known, expire):
            self._expect_limited(reply, known)
            return
        assert reply.status == 200
        merged = {} if metadata is None else known.metadata | metadata
        merged = {name: value for name, value in merged.items() if value is not None}
        self._expect_written(guid, known, reply, user=user, expire=expire, metadata=merged)

    @rule(index=INDEXES)
    def revoke(self, index: int) -> None:
        guid = self._guids[index]
        known = self._current(guid)
        reply = self._ask("PATCH", f"/guid/{guid}", {"expire": 0})
        assert reply.status == (404 if known is None else 200)
        if known is not None:
            self._expect_written(guid, known, reply, user=None, expire=0, metadata=None)

    @rule(index=INDEXES, members=INVALID_MEMBERS)
    def put_invalid(self, index: int, members: dict[str, Any]) -> None:
        assert self._ask("PUT", f"/guid/{self._guids[index]}", {"user": "x"} | members).status == 400

    # Time

    @rule(seconds=st.sampled_from([0.001, 1, 59, DAY, RETENTION, LIFETIME]))
    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds=seconds)

    @precondition(lambda self: self._model)
    @rule(data=st.data())
    def advance_to_an_expiry(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(sorted(self._model.values(), key=lambda each: each.tag)))
        self._clock.now = max(self._clock.now, known.expire * 1000)

    # The model

    def _current(self, guid: str) -> ModelRecord | None:
        known = self._model.get(guid)
        if known and self._clock.now >= (max(known.expire, known.updated) + RETENTION) * 1000:
            del self._model[guid]
            return None
        return known

    def _expect_expired(self, reply: Reply, known: ModelRecord) -> None:
        assert (reply.status, reply.json["code"]) == (410, "expired")
        assert reply.json["expired_at"] == str(known.expire)
        assert reply.json["renewable_until"] == str(max(known.expire, known.updated) + RETENTION)

    def _after(self, seconds: int) -> int:
        """Return the first whole second at least this far in the future."""
        return -(-self._clock.now // 1000) + seconds

    def _end(self, known: ModelRecord | None) -> int:
        """Return the latest expiry that a write may set."""
        return -(-(self._clock.now if known is None else known.created) // 1000) + MAX_LIFE

    def _is_limited(self, known: ModelRecord | None, expire: int | None) -> bool:
        """Return whether a write with this expiry (None: unchanged) exceeds the remaining life."""
        end = self._end(known)
        if expire is None:
            return known is not None and known.expire <= self._clock.seconds and end * 1000 <= self._clock.now
        is_same = known is not None and expire == known.expire
        return expire > end and expire * 1000 > self._clock.now and not is_same

    def _expect_limited(self, reply: Reply, known: ModelRecord | None) -> None:
        assert (reply.status, reply.json["code"]) == (409, "life-limit")
        assert reply.json["max_expire"] == str(self._end(known))

    def _expect_renewed(self, guid: str, known: ModelRecord, reply: Reply, *, expire: int) -> None:
        assert reply.status == 200
        assert (reply.json["expire"], reply.json["renewed"]) == (str(expire), expire != known.expire)
        assert reply.json["granted"] == str((expire * 1000 - self._clock.now) // 1000)
        assert reply.json["max_expire"] == str(self._end(known))
        tag = reply.headers["ETag"]
        if expire == known.expire:
            assert tag == known.tag, "the record is unchanged"
            return
        assert int(tag.strip('"')) > int(known.tag.strip('"'))
        self._model[guid] = replace(known, expire=expire, updated=self._clock.seconds, tag=tag)

    def _expect_written(  # the members of a body, by name
        self,
        guid: str,
        known: ModelRecord | None,
        reply: Reply,
        *,
        user: str | None,
        expire: int | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        renewed = known is None or known.expire <= self._clock.seconds
        if expire is None:
            default = min(self._clock.seconds + LIFETIME, self._end(known))
            expire = default if renewed else known.expire  # type: ignore[union-attr]
        new = ModelRecord(
            user=user if user is not None else known.user,  # type: ignore[union-attr]
            expire=expire,
            metadata=metadata if metadata is not None else (known.metadata if known else {}),
            updated=self._clock.seconds,
            tag=reply.headers["ETag"],
            created=self._clock.now if known is None else known.created,
        )
        assert reply.json == new.wire(guid)
        if known is not None and known.wire(guid) == new.wire(guid):
            assert new.tag == known.tag, "the record is unchanged"
            return
        assert known is None or int(new.tag.strip('"')) > int(known.tag.strip('"'))
        self._model[guid] = new


@pytest.mark.slow
def test_service_and_model_agree(serving: Serving, clock: FakeClock, combination: dict[str, str]) -> None:
    slow = combination["store_url"].startswith("mongodb")
    runs = settings(
        max_examples=example_count(15 if slow else 40),
        stateful_step_count=30,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    with asyncio.Runner() as runner:
        machine = functools.partial(ServiceAndModel, serving, clock, combination, runner)
        run_state_machine_as_test(machine, settings=runs)  # type: ignore[arg-type]  # any callable that returns a machine
    assert next(NUMBERS) > 15
