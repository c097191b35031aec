"""Log texts for errors of MongoDB's driver."""

import re
from pathlib import Path

import pytest
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WriteError,
    _OperationCancelled,
)

from guidsvc.store.mongo.error_reason import MAX_REASONS, reason_of
from guidsvc.store.mongo.failures import write_failure
from guidsvc.store.mongo.store import unusable

CANARY = "canary-of-a-record"
_DOCUMENT = {"_id": "A" * 32, "user": CANARY, "metadata": {"m": CANARY}}
_RULES = {"details": [{"consideredValue": CANARY}]}
_INVALID = {"index": 0, "code": 121, "errmsg": "Document failed validation", "errInfo": _RULES, "op": _DOCUMENT}
_DUPLICATE = {
    "index": 1, "code": 11000, "errmsg": f'E11000 duplicate key error collection: a.b dup key: {{ user: "{CANARY}" }}',
    "keyValue": {"user": CANARY}, "op": {"q": {}, "u": [{"$set": _DOCUMENT}]},
}  # fmt: skip
_LOST = {"code": 64, "errmsg": "waiting for replication timed out", "errInfo": {"op": _DOCUMENT}}
ERRORS = {
    "validation failed (code 121)": WriteError("Document failed validation", 121, _INVALID),
    "duplicate key error collection: a.b (code 11000)": DuplicateKeyError(str(_DUPLICATE["errmsg"]), 11000, _DUPLICATE),
    "timed out (code 64)": WriteConcernError(str(_LOST["errmsg"]), 64, _LOST),
    "not authorized (code 13)": OperationFailure("not authorized", 13, {"command": _DOCUMENT}),
    "not primary": NotPrimaryError("not primary", {"command": _DOCUMENT}),
    "in part: Document failed validation (code 121); E11000 duplicate key error collection: a.b (code 11000); "
    "waiting for replication timed out (code 64)": BulkWriteError(
        {"writeErrors": [_INVALID, _DUPLICATE, _INVALID], "writeConcernErrors": [_LOST]}
    ),
}


@pytest.mark.parametrize(("expected", "error"), ERRORS.items(), ids=[type(each).__name__ for each in ERRORS.values()])
def test_reason_of_an_error_has_codes_and_no_document(expected: str, error: PyMongoError) -> None:
    for reason in (reason_of(error), str(write_failure(error))):
        assert CANARY not in reason
        assert expected.split()[-2:] == reason.split()[-2:]


def test_reason_of_a_connection_error_omits_the_cluster() -> None:
    reason = "a:27017: [Errno 111] Connection refused"
    timeouts = "configured timeouts: socketTimeoutMS: 2000.0ms, connectTimeoutMS: 2000.0ms"
    topology = "Timeout: 2.0s, Topology Description: <TopologyDescription id: 6a, topology_type: Unknown, servers: []>"
    for text in (f"{reason} ({timeouts})", f"{reason} ({timeouts}), {topology}", f"{reason}, {topology}"):
        assert reason_of(ServerSelectionTimeoutError(text)) == reason


def test_reason_of_a_closed_connection_names_the_heartbeat() -> None:
    assert "does not answer its heartbeat" in reason_of(_OperationCancelled("operation cancelled"))


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("No servers found yet", "MongoDB does not answer in time; see what keeps it busy or stopped"),
        ("a:27017: timed out", "MongoDB does not answer in time; see what keeps it busy or stopped"),
        ("a:27017: [Errno 111] Connection refused", "connection refused: nothing listens there; start MongoDB"),
    ],
)
def test_silent_server_is_told_apart_from_an_absent_one(reason: str, text: str) -> None:
    error = ServerSelectionTimeoutError(f"{reason}, Timeout: 2.0s, Topology Description: <TopologyDescription>")

    assert text in str(unusable(error))


@pytest.mark.slow
def test_reason_of_a_bulk_write_names_few_distinct_errors() -> None:
    faults = [{"code": code % 10, "errmsg": "x" * 100_000} for code in range(1000)]

    reason = reason_of(BulkWriteError({"writeErrors": faults, "writeConcernErrors": []}))

    assert reason.count("code") == MAX_REASONS
    assert reason.endswith("; and 6 more")
    assert len(reason) < 2000


def test_other_modules_never_quote_such_an_error() -> None:
    for path in Path("guidsvc/store/mongo").glob("*.py"):
        handlers = re.findall(r"except \(?(?:PyMongo|BSON)\w*.*? as error:\n.*\n", path.read_text())
        assert not [line for line in handlers if "{error}" in line or "str(error)" in line], path
