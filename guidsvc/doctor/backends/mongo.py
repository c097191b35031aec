"""Checks of a MongoDB store. The probe is a separate collection, which is dropped. The store is never created."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from functools import partial
from secrets import token_hex
from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from guidsvc.connection_urls import redact
from guidsvc.doctor.checks import Check, Closed, Findings
from guidsvc.doctor.clocks import judge_clock
from guidsvc.doctor.findings import Finding, fail, ok, warn
from guidsvc.store.mongo.error_reason import reason_of
from guidsvc.store.mongo.events.sequencer import LOG_INDEXES
from guidsvc.store.mongo.records import INDEXES
from guidsvc.store.mongo.store import (
    COLLECTION,
    DATABASE,
    IDENTITY,
    LOG,
    RECEIPT_INDEXES,
    RECEIPTS,
    inspecting_client,
    unusable,
)

TIMEOUT_MS = 2000
"""Time limit of each operation, as of the service."""
NEAR_SECONDS = 0.1
"""A MongoDB that takes longer for a ping slows down every write."""
PROBE = "doctor_probe"
_UNAUTHORIZED = 13
_INDEXES = {COLLECTION: INDEXES, RECEIPTS: RECEIPT_INDEXES, LOG: LOG_INDEXES}

Connected = Database[dict[str, Any]]


def checks(url: str) -> Sequence[Check]:
    """Return the checks of the store at a URL."""

    def on_store(look: Callable[[Connected], Findings]) -> Callable[[], Findings]:
        return partial(_connected, url, look)

    return (
        Check("store.reach", on_store(partial(_reach, url)), is_gate=True),
        Check("store.replicas", on_store(_replicas), is_gate=True),
        Check("store.clock", on_store(_clock)),
        Check("store.exists", on_store(_exists), is_gate=True),
        Check("store.reads", on_store(_linearizable)),
        Check("store.writable", on_store(_writable), 10.0),
        Check("store.indexes", on_store(_indexes)),
        Check("store.purge", on_store(_ttl_monitor)),
    )


def _connected(url: str, look: Callable[[Connected], Findings]) -> Findings:
    with database(url) as connected:
        return look(connected)


@contextmanager
def database(url: str) -> Iterator[Connected]:
    """Connect to the database of a URL; errors of the driver become a StartError."""
    client = inspecting_client(url, TIMEOUT_MS)
    try:
        yield client.get_default_database(DATABASE)
    except PyMongoError as error:
        raise unusable(error) from None  # a cause may quote the URL
    finally:
        client.close()


def _reach(url: str, connected: Connected) -> Finding:
    connected.command("ping")  # connects
    begun = time.monotonic()
    connected.command("ping")
    seconds = time.monotonic() - begun
    place = f"MongoDB {_version(connected)} at {redact(url)}"
    if seconds > NEAR_SECONDS:
        return warn(f"{place} takes {1000 * seconds:.0f} ms to answer", "run the service nearer to it")
    return ok(f"{place} answers in {1000 * seconds:.1f} ms")


def _version(connected: Connected) -> str:
    with suppress(OperationFailure):  # a right that the service does not need
        return str(connected.command("buildInfo").get("version", "of unknown version"))
    return "of unknown version"


def _replicas(connected: Connected) -> Finding:
    return judge_topology(connected.command("hello"))


def judge_topology(hello: Mapping[str, Any]) -> Finding:
    """Return the finding about the reply to `hello`."""
    if hello.get("msg") == "isdbgrid":
        return ok("a sharded cluster")
    if "setName" not in hello:
        return fail(
            "a single server without a replica set: reads that must see the last write are impossible",
            "start mongod with --replSet NAME, and run rs.initiate() once; one member is enough",
        )
    return ok(f"the replica set {hello['setName']}")


def _clock(connected: Connected) -> Finding:
    started = time.time()
    there = connected.command("hello")["localTime"].replace(tzinfo=UTC)
    return judge_clock(started, there.timestamp(), time.time(), "MongoDB")


def _exists(connected: Connected) -> Finding:
    if connected[IDENTITY].find_one({"_id": COLLECTION}) is None:
        raise Closed(ok(f"no store in the database {connected.name} yet; the service creates it at its first start"))
    return ok(f"a store in the database {connected.name}")


def _linearizable(connected: Connected) -> Finding:
    identity = connected.get_collection(IDENTITY, read_concern=ReadConcern("linearizable"))
    identity.find_one({"_id": COLLECTION}, max_time_ms=TIMEOUT_MS)
    return ok("a linearizable read succeeds")


def _writable(connected: Connected) -> Finding:
    """Write a document, acknowledged by a majority, and remove it with its collection."""
    probe = connected[PROBE]
    key = {"_id": token_hex(8)}
    try:
        with pymongo.timeout(TIMEOUT_MS / 1000):
            probe.insert_one(dict(key))
            probe.update_one(key, {"$set": {"x": 1}})
            probe.delete_one(key)
            probe.drop()
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        return fail(
            f"the user may not write: {reason_of(error)}",
            f"grant the user readWrite on the database {connected.name}",
        )
    except PyMongoError as error:
        return fail(
            f"no majority acknowledges a write within {TIMEOUT_MS / 1000:g} s: {reason_of(error)}",
            "start the missing members of the replica set",
        )
    return ok("a majority acknowledges a write")


def _indexes(connected: Connected) -> Finding:
    missing: list[str] = []
    for name, indexes in _INDEXES.items():
        existing = connected[name].index_information()
        wanted = (index.document["name"] for index in indexes)
        missing += [f"{name}.{each}" for each in wanted if each not in existing]
    if missing:
        return warn(
            f"missing indexes: {', '.join(missing)}", "start the service, which creates them; that may take minutes"
        )
    return ok("all indexes exist")


def _ttl_monitor(connected: Connected) -> Finding:
    """Receipts are deleted by an index of MongoDB, which works only while its monitor does."""
    try:
        reply = connected.client.admin.command({"getParameter": 1, "ttlMonitorEnabled": 1})
    except OperationFailure:
        return ok("the user may not see whether the TTL monitor runs, and need not")
    return judge_ttl_monitor(reply)


def judge_ttl_monitor(reply: Mapping[str, Any]) -> Finding:
    """Return the finding about the reply to the question whether the TTL monitor is on."""
    if reply.get("ttlMonitorEnabled") is False:
        return warn(
            "the TTL monitor is off, so old receipts are never deleted",
            "run db.adminCommand({setParameter: 1, ttlMonitorEnabled: true})",
        )
    return ok("the TTL monitor is not off")
