"""The probe of Redis before the service starts: it answers, is absent, or refuses this service.

A Redis that is absent may come back, so the service starts without it. One that refuses will do so until an operator
changes the URL or Redis: a wrong password, a database that does not exist, another protocol at that port.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, RedisError, ResponseError

from guidsvc.cache.redis.pool import CONNECT_SECONDS, demand_master, greet, pool_of, reason, within
from guidsvc.connection_urls import ENCODING_RULE
from guidsvc.errors import StartError
from guidsvc.system_errors import NetworkFault, network_fault

OTHER_TRANSPORT_SECONDS = 0.5
"""Time limit for trying TLS if the URL has none, or the reverse, after a server has accepted but not answered."""

_REFUSALS = (
    (
        AuthenticationError,
        re.compile("required"),
        "Redis requires a password; write it, percent-encoded, as redis://:PASSWORD@host:6379/0",
    ),
    (
        AuthenticationError,
        re.compile("without any password"),
        "Redis has no password for the default user; leave the password out, or name a user",
    ),
    (
        AuthenticationError,
        re.compile(""),
        f"Redis rejects the user or the password; correct them, and {ENCODING_RULE}",
    ),
    (NoPermissionError, re.compile(""), "Redis denies a command: {text}; grant it to the user (ACL SETUSER)"),
    (InvalidResponse, re.compile(""), "the server does not speak the Redis protocol; correct host and port"),
    (
        ResponseError,
        re.compile("(?i)invalid DB index|DB index is out of range|SELECT is not allowed in cluster mode"),
        "Redis has no such database: {text}; use a lower number, usually 0 to 15",
    ),
    (ResponseError, re.compile("^(unknown command|DENIED)"), "Redis cannot be used: {text}; change its configuration"),
)
"""Lasting errors: class, pattern of the message, and the message to the operator. The first match counts."""
_REDIS_REPLY = re.compile(rb"\+PONG|-[A-Z]+ ")


async def probe_redis(url: str) -> bool:
    """Return whether Redis answers. Raise StartError, which says what to change, if it refuses this service."""
    connection: Connection = pool_of(url, ConnectionPool).make_connection()  # type: ignore[no-untyped-call]
    try:
        _, replication = await within(CONNECT_SECONDS, greet(connection))
        demand_master(replication)  # a replica may become a master
    except (RedisError, OSError, TimeoutError) as error:
        refusal = _refusal(error) or await _transport_fault(url, error)
        if refusal:
            raise StartError(f"cache_url: {refusal}") from None  # a cause may quote the URL
        return False
    finally:
        await connection.disconnect(nowait=True)
    return True


def _refusal(error: Exception) -> str:
    """Return why Redis refuses and what to do, or an empty string if the error may be temporary."""
    text = reason(error)
    refusals = (remedy for kind, pattern, remedy in _REFUSALS if isinstance(error, kind) and pattern.search(text))
    return next(refusals, "").format(text=text.partition(". ")[0]) or next(_tls_refusals(error), "")


def _tls_refusals(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        fault = network_fault(error)
        if isinstance(error, ssl.SSLCertVerificationError) and fault is not None:
            remedy = "name its CA with ?ssl_ca_certs=FILE" if fault is NetworkFault.UNTRUSTED else fault.remedy
            yield f"Redis cannot be trusted: {fault.reason}; {remedy}"
        elif isinstance(error, ssl.SSLError) and fault is not None:
            yield f"TLS with Redis failed: {fault.reason}; use redis:// if it speaks no TLS"
        error = error.__cause__ or error.__context__


async def _transport_fault(url: str, error: Exception) -> str:
    """Return what to change if the server speaks TLS and the URL names none, or the reverse; else an empty string."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname is None or _is_unreachable(error):
        return ""
    has_tls = parts.scheme == "rediss"
    try:
        async with asyncio.timeout(OTHER_TRANSPORT_SECONDS):
            context = None if has_tls else _unverified()
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379, ssl=context)
            try:
                if has_tls:
                    writer.write(b"PING\r\n")
                    if not _REDIS_REPLY.match(await reader.read(64)):
                        return ""
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return ""
    wrong, right = ("speaks no TLS", "redis://") if has_tls else ("speaks TLS", "rediss://")
    return f"the server {wrong}; use {right}"


def _is_unreachable(error: BaseException | None) -> bool:
    """Return whether no connection was made: the port is closed, or the host is unknown."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionResetError, BrokenPipeError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unverified() -> ssl.SSLContext:
    """Return a context that accepts any certificate: nothing is sent after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
