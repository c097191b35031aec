"""The log lines of Tornado about clients, in the form of the service.

Tornado itself logs that a client sent no HTTP, or failed the TLS handshake, in its own words and partly with what the
client sent. A filter of its logger replaces these lines.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from tornado.httputil import HTTPInputError

from guidsvc.server.client_networks import address_of
from guidsvc.server.protocol.request import not_http, unquoted
from guidsvc.server.protocol.state import ApplicationHooks
from guidsvc.server.tls import log_failed_handshake

_TORNADO = logging.getLogger("tornado.general")
_log = structlog.get_logger(__name__)

_UNQUOTED_VALUE = re.compile("(Unsupported Transfer-Encoding) .*", re.DOTALL)
_BYTES = re.compile("not found within ([0-9]+) bytes")


class OtherProtocolError(HTTPInputError):
    """A request that is not HTTP/1.1, and the error that says what to send."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class ClientLines(logging.Filter):
    """A filter that replaces lines about clients. All other lines pass."""

    def __init__(self, hooks: ApplicationHooks) -> None:
        super().__init__()
        self._hooks = hooks
        self._replacements: dict[str, Callable[[logging.LogRecord, Any], bool]] = {
            "Malformed HTTP message from": self._replace_malformed,
            "Unsatisfiable read": _replace_unsatisfiable,
            "Timeout reading body from": _replace_timeout,
            "SSL Error on": _replace_tls_error,
        }

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        for start, replace in self._replacements.items():
            if text.startswith(start):
                return replace(record, record.args)
        return True

    def _replace_malformed(self, record: logging.LogRecord, arguments: tuple[object, Exception]) -> bool:
        peer, error = arguments
        detail = _UNQUOTED_VALUE.sub(r"\1", unquoted(str(error)))
        if isinstance(peer, tuple):  # a response that was sent to a client of this process
            record.args = (peer, detail)
            return True
        self._hooks.log_rejected(error.error if isinstance(error, OtherProtocolError) else not_http(detail))
        return False


@contextmanager
def client_lines_replaced(hooks: ApplicationHooks) -> Iterator[None]:
    """Replace the lines about clients inside the block."""
    lines = ClientLines(hooks)
    _TORNADO.addFilter(lines)
    try:
        yield
    finally:
        _TORNADO.removeFilter(lines)


def _replace_unsatisfiable(record: logging.LogRecord, _: object) -> bool:
    limit = _BYTES.search(str(record.msg))
    if limit is None:
        return True
    _log.info("connection closed", reason=f"a head or a line is longer than {limit[1]} bytes")
    return False


def _replace_timeout(_: logging.LogRecord, arguments: tuple[object]) -> bool:
    _log.info("connection closed", reason="the body was not sent in time", remote=str(arguments[0]))
    return False


def _replace_tls_error(_: logging.LogRecord, arguments: tuple[int, object, Exception]) -> bool:
    __, peer, error = arguments
    log_failed_handshake(str(peer) if isinstance(peer, str) and peer else address_of(peer), error)
    return False
