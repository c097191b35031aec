"""Assertions about replies of the service."""

from tests.support.http_client import Reply


def assert_problem(reply: Reply, status: int, code: str) -> dict[str, object]:
    """Check that the reply is this problem, in the one shape that all problems have; return its body."""
    assert reply.status == status, reply
    assert reply.headers["Content-Type"] == "application/problem+json"
    body: dict[str, object] = reply.json
    assert (body["type"], body["status"], body["code"]) == (f"/problems/{code}", status, code)
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == reply.headers["X-Request-Id"]
    return body


def pointers(reply: Reply) -> list[str]:
    """Return the pointers of the errors of an invalid request."""
    body = assert_problem(reply, 400, "invalid-request")
    assert isinstance(body["errors"], list)
    return [fault["pointer"] for fault in body["errors"]]


def assert_failed(reply: Reply, current: Reply | None) -> None:
    """Check that a precondition failed, and that the reply has the current record, if there is one."""
    body = assert_problem(reply, 412, "precondition-failed")
    if current is None:
        assert "record" not in body
        assert "ETag" not in reply.headers
    else:
        assert body["record"] == current.json
        assert reply.headers["ETag"] == current.headers["ETag"]
