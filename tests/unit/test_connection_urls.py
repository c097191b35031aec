"""Connection URLs are shown without secrets, and so are the errors about them."""

import pytest
from redis.asyncio import ConnectionPool

from guidsvc.cache.redis.pool import pool_of
from guidsvc.connection_urls import connect_with_redacted_errors, is_ambiguous, redact, scheme_of
from guidsvc.errors import StartError


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("mongodb://user:secret@db:27017/guidsvc?w=1", "mongodb://user:***@db:27017/guidsvc?w=1"),
        ("redis://:secret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("redis://secret@cache:6379/0", "redis://***@cache:6379/0"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://h/0?username=a&password=secret&db=1", "redis://h/0?username=a&password=***&db=1"),
        ("redis://h/0?p%61ssword=secret", "redis://h/0?***"),
        ("redis://h/0?pasword=secret;secret", "redis://h/0?pasword=***;***"),
        ("redis://h/0?password=p@ss", "redis://h/0?password=***"),
        ("mongodb://a:p@ss@[::1]:1,[::2]:2/x", "mongodb://a:***@[::1]:1,[::2]:2/x"),
        ("mongodb://a:p@h1:1,h2:2/x", "mongodb://a:***@h1:1,h2:2/x"),
        ("mongodb://a:p/ss@h/x", "mongodb://***"),
        ("mongodb://a:p?ss@h/x", "mongodb://***"),
        ("mongodb://a:12#ss@h/x", "mongodb://***"),
        ("mongodb:a:secret@h/x", "mongodb:***"),
        ("redis://:secret/0", "redis://***"),
        ("redis://cache:secret", "redis://***"),
        ("mongodb://h1:1,h2:secret/x", "mongodb://***"),
        ("redis://[::1]:secret/0", "redis://***"),
        ("redis://u:p@[::1]:port/0", "redis://u:***@[::1]:port/0"),
        ("redis://[::1]/0", "redis://[::1]/0"),
        ("mongodb://%2Ftmp%2Fmongodb.sock/x", "mongodb://%2Ftmp%2Fmongodb.sock/x"),
        ("redis://cache:123456789012", "redis://***"),
        ("mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:x", "mongodb://h/?authMechanismProperties=***"),
        ("mongodb://h/x?replicaSet=rs0&tls=true", "mongodb://h/x?replicaSet=rs0&tls=true"),
        ("unix:///run/a@b.sock?db=0&password=secret", "unix:///run/a@b.sock?db=0&password=***"),
        ("sqlite:///a@b:c/guidsvc.db", "sqlite:///a@b:c/guidsvc.db"),
        ("sqlite:///guidsvc.db", "sqlite:///guidsvc.db"),
        ("memory://", "memory://"),
        ("hunter2@cache:6379/0", "***"),
        ("hunter2:pass@cache:6379/0", "***"),
        ("hunter2@cache", "***"),
        ("password=hunter2", "***"),
        ("u:p://h", "***"),
        ("hunter2@cache/x://h", "***"),
        ("REDIS://:secret@cache/0", "REDIS://:***@cache/0"),
        ("REDIS:secret@cache", "REDIS:***"),
        ("SQLITE:///a@b:c/guidsvc.db", "SQLITE:///a@b:c/guidsvc.db"),
        ("redis://sec@ret:word@h/0", "redis://***@h/0"),
        ("redis://h/0&password=secret", "redis://h/***"),
        ("sqlite://u:secret/x", "sqlite://***"),
        ("odd+scheme://u:secret@h/x?password=secret", "odd+scheme://u:***@h/x?password=***"),
        ("guidsvc.db", "guidsvc.db"),
        ("", ""),
    ],
)
def test_url_is_shown_without_secrets(url: str, redacted: str) -> None:
    assert redact(url) == redacted


@pytest.mark.parametrize(
    "url", ["redis://u:12?ss@h/0", "redis://u:12/34@h", "redis://u:12#ss@h", "redis://u:1?a=1&b@h/"]
)
def test_password_that_looks_like_another_part_reaches_no_driver(url: str) -> None:
    def connect(_: str) -> None:
        raise AssertionError

    assert is_ambiguous(url)
    with pytest.raises(StartError, match=r"^cache_url: in user and password, percent-encode all "):
        connect_with_redacted_errors("cache_url", url, connect, ValueError)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://u:CANARY@h:port/0", "'port'"),
        ("redis://:CANARY/0", "the port is not a number; write user and password before the host"),
        ("redis://h:CANARY", "the port is not a number; write user and password before the host"),
        ("redis://u:CANARY@h/x?password=CANARY", "/x is not the number of a Redis database"),
        ("redis://u:CANARY@h/0?nonsense=CANARY", "'nonsense'"),
        ("redis://u:CAN[ARY@h/0", "percent-encode"),
        ("redis://h/0&password=CANARY", "/*** is not the number of a Redis database"),
        ("rediss://h/0?ssl_include_verify_flags=CANARY", "cache_url: "),
    ],
)
def test_faults_beside_the_password_are_still_reported(url: str, message: str) -> None:
    with pytest.raises(StartError) as error:
        pool_of(url, ConnectionPool)

    assert message in str(error.value)
    assert "CAN" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("redis://h", "redis"),
        ("mongodb+srv://h", "mongodb+srv"),
        ("u:p@h", ""),
        ("u:p://h", ""),
        ("REDIS://h", ""),
        ("", ""),
    ],
)
def test_scheme_of_malformed_url_is_unknown(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme
