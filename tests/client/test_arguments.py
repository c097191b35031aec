"""Arguments of a wrong type: the error names the argument, and says what it must be. Nothing is sent."""

import re
from collections.abc import Callable
from math import nan
from typing import Any

import pytest

from guidsvc_client import Client

GUID = "9094E4C980C74043A4B586B420E69DDF"
WRONG: list[tuple[str, Callable[[Any], object]]] = [
    ("ttl must be a timedelta or a number of seconds, not '60s'", lambda guids: guids.create(user="q", ttl="60s")),
    ("ttl must be finite, not nan", lambda guids: guids.create(user="q", ttl=nan)),
    ("expire must be a datetime or Unix seconds, not 'soon'", lambda guids: guids.create(user="q", expire="soon")),
    ("expire must be a datetime or Unix seconds, not 1.5", lambda guids: guids.patch(GUID, {"expire": 1.5})),
    ("valid_for must be a timedelta or a number of seconds, not '1m'", lambda guids: guids.get(GUID, valid_for="1m")),
    ('if_match must be a version or "*", not 1.5', lambda guids: guids.delete(GUID, if_match=1.5)),
    ("expires_after must be a datetime or Unix seconds, not 1.5", lambda guids: [*guids.list(expires_after=1.5)]),
    ("user must be a string, not 5", lambda guids: [*guids.list(user=5)]),
    ("types must be a list of strings, not 'guid.created'", lambda guids: guids.events(types="guid.created")),
    ("scopes must be a list of strings, not 'read'", lambda guids: guids.keys.create("alice", "read")),
    ("ttl must be a timedelta or a number of seconds, not '9'", lambda guids: guids.lease(ttl="9").__enter__()),
    (
        "wait must be a timedelta or a number of seconds, not '9'",
        lambda guids: guids.lease(ttl=9, wait="9").__enter__(),
    ),
    ("ttl must be a timedelta or a number of seconds, not '9'", lambda guids: guids.batch([{"user": "q", "ttl": "9"}])),
    ("timeout must be a number of seconds, not '5'", lambda guids: guids.with_options(timeout="5")),
    ("metadata, or another argument, has no form in JSON", lambda guids: guids.put(GUID, metadata={"at": object()})),
]


@pytest.mark.parametrize(("message", "send"), WRONG)
def test_wrong_argument_is_named(message: str, send: Callable[[Any], object]) -> None:
    with Client("http://127.0.0.1:1", retries=0) as guids, pytest.raises((TypeError, ValueError)) as raised:
        send(guids)

    assert re.match(re.escape(message), str(raised.value))
