"""The client offers what the service does: operations, problems, and the same methods sync and async."""

import inspect
import re
from typing import Any

import pytest

import guidsvc_client
from guidsvc.api.contract import problems
from guidsvc.api.docs import openapi_document
from guidsvc_client import (
    AsyncClient,
    AsyncEventFeed,
    AsyncLease,
    AsyncRecordList,
    Client,
    EventFeed,
    Lease,
    RecordList,
)
from guidsvc_client.aio.keys import AsyncKeys
from guidsvc_client.problems import CLASSES, Problem, problem_of
from guidsvc_client.sync.keys import Keys
from tests.support.api_document import ROUTES

METHODS = {
    "createGuid": "create",
    "getGuid": "get",
    "putGuid": "put",
    "patchGuid": "patch",
    "deleteGuid": "delete",
    "createRenewal": "renew",
    "listGuids": "list",
    "doBatch": "batch",
    "listEvents": "events",
    "listKeys": "keys.list",
    "createKey": "keys.create",
    "getKey": "keys.get",
    "patchKey": "keys.set_note",
    "revokeKey": "keys.revoke",
    "createRotation": "keys.rotate",
    "getOwnKey": "whoami",
    "getStats": "stats",
    "getReadyz": "ready",
    "getVersion": "version",
}
LEFT_OUT = {
    "drawGuid": "the same as createGuid, for clients that cannot send a Content-Type",
    "getLivez": "for the supervisor of the process; ready() says more",
    "getMetrics": "for Prometheus",
    "getOpenapi": "for generators",
    "getLlms": "for language models",
    "getDocs": "a page for people",
    "getDocsFile": "a file of that page",
    "getConsole": "a page for people",
    "getConsoleFile": "a file of that page",
    "listProblems": "the classes of problems have this as docstrings",
    "getProblem": "a page for people; Problem.page has its address",
    "getRoot": "a page for people",
}
TWINS = [
    (Client, AsyncClient),
    (Keys, AsyncKeys),
    (Lease, AsyncLease),
    (RecordList, AsyncRecordList),
    (EventFeed, AsyncEventFeed),
]


def test_every_operation_has_a_method_or_a_reason() -> None:
    document = openapi_document.build(ROUTES, lambda _: True).model_dump(by_alias=True, exclude_unset=True)
    served = {operation["operationId"] for item in document["paths"].values() for operation in item.values()}

    assert served <= METHODS.keys() | LEFT_OUT.keys()
    assert not METHODS.keys() & LEFT_OUT.keys()
    for name in METHODS.values():
        owner, _, method = name.rpartition(".")
        assert inspect.isfunction(getattr(Keys if owner else Client, method)), name


def test_every_problem_has_a_class() -> None:
    codes = {kind.code for kind in {*problems.TABLE.values(), problems.INTERNAL}}

    assert codes == CLASSES.keys()


def test_every_class_is_exported() -> None:
    names = set(guidsvc_client.__all__)

    assert {kind.__name__ for kind in CLASSES.values()} <= names
    assert all(hasattr(guidsvc_client, name) for name in names)


def test_unknown_problem_is_a_problem() -> None:
    error = problem_of({"type": "/problems/new", "title": "New", "status": 418, "code": "new"}, {})
    assert (type(error), error.code, str(error)) == (Problem, "new", "New (new, request , explained at /problems/new)")


def signature(method: Any) -> list[tuple[str, Any, Any]]:
    """Return the names, the defaults and the annotations of the parameters of a method."""
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.default, each.annotation) for each in found if each.name not in {"http", "session"}]


def public_members(kind: type) -> dict[str, Any]:
    """Return the public methods and properties of a class, also the inherited ones, by name."""
    return {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_both_clients_have_the_same_methods(sync: type, twin: type) -> None:
    methods = public_members(sync)
    others = {name.replace("aclose", "close"): each for name, each in public_members(twin).items()}

    assert methods.keys() == others.keys()
    for name, method in methods.items():
        if inspect.isfunction(method):
            assert signature(method) == signature(others[name]), name
        assert inspect.getdoc(method) == inspect.getdoc(others[name]), name


@pytest.mark.parametrize(("sync", "twin"), TWINS[:1])
def test_both_clients_are_made_alike(sync: type, twin: type) -> None:
    assert signature(sync.__init__) == signature(twin.__init__)  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("127.0.0.1:8888", "'127.0.0.1:8888' is not the URL of a service; did you mean http://127.0.0.1:8888?"),
        ("guids.example/a", "'guids.example/a' is not the URL of a service; did you mean http://guids.example/a?"),
        ("ftp://h", "'ftp://h' is not the URL of a service; write one such as http://127.0.0.1:8888"),
        ("http://u:CANARY@h:0", "'***h:0' is not the URL of a service; write one such as http://127.0.0.1:8888"),
        ("http://h?key=CANARY", "'http://h?***' is not the URL of a service; write one"),
        ("gs_CANARY", "this is an API key, not a URL; pass it as key, or set GUIDSVC_KEY"),
        *((url, f"{url!r} is not") for url in ("http://", "http://h:99999", "http://h:x", "http://h h", "http://h\n")),
    ],
)
def test_url_of_no_service_is_rejected_by_the_constructor(kind: type[Any], url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"^url: {re.escape(fault)}"):
        kind(url)


def test_url_of_the_environment_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_URL", "localhost")

    with pytest.raises(ValueError, match=r"^GUIDSVC_URL: 'localhost' is not .* did you mean http://localhost\?$"):
        Client()


@pytest.mark.parametrize("url", ["http://[::1]:8888", "https://bücher.example/a/", "HTTP://u:p@h:65535"])
def test_url_of_a_service_is_accepted(url: str) -> None:
    Client(url).close()
