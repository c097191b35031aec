"""Errors of the network and of TLS in plain words, with remedies.

Libraries hand on what the system says, as in `[Errno 111] Connection refused` or `[SSL: WRONG_VERSION_NUMBER] wrong
version number (_ssl.c:1006)`, mostly with their own error around it.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from enum import Enum
from errno import (
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    ENETDOWN,
    ENETUNREACH,
    EPIPE,
    ETIMEDOUT,
)
from socket import EAI_AGAIN, gaierror

MAX_CAUSES = 10
"""Maximum number of errors of a chain that are examined."""


class NetworkFault(Enum):
    """The reason why a server cannot be reached, and the remedy unless the caller has a better one."""

    REFUSED = "connection refused: nothing listens there", "start it, or correct its address"
    UNKNOWN_NAME = "its host name is not known", "correct the name, or the DNS of this host"
    NO_LOOKUP = "its host name cannot be looked up now", "check the network and the DNS of this host"
    UNREACHABLE = "this host has no route to it", "check the network, or correct its address"
    TIMEOUT = "no answer in time", "check whether it runs, and whether a firewall blocks the way"
    CLOSED = "it closed the connection", "see its log; perhaps only one side uses TLS"
    NO_TLS = "it speaks no TLS", "leave TLS out, or use its port with TLS"
    UNTRUSTED = (
        "its certificate is from an authority that this host does not trust",
        "set SSL_CERT_FILE to the file with the certificate of that authority",
    )
    EXPIRED = "its certificate has expired", "renew the certificate"
    NOT_YET_VALID = "its certificate is not valid yet", "correct the clock of this host, or the certificate"
    WRONG_NAME = "its certificate is for another host", "use a name that the certificate has"
    BAD_CERTIFICATE = "its certificate is not valid", "replace the certificate"
    HANDSHAKE = "the TLS handshake failed", "see its log"

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy


_BY_NUMBER: Mapping[int, NetworkFault] = {
    ECONNREFUSED: NetworkFault.REFUSED,
    ETIMEDOUT: NetworkFault.TIMEOUT,
    **dict.fromkeys((ECONNRESET, ECONNABORTED, EPIPE), NetworkFault.CLOSED),
    **dict.fromkeys((EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN), NetworkFault.UNREACHABLE),
}
_CERTIFICATE = (
    ("has expired", NetworkFault.EXPIRED),
    ("not yet valid", NetworkFault.NOT_YET_VALID),
    ("mismatch", NetworkFault.WRONG_NAME),
    ("self-signed", NetworkFault.UNTRUSTED),
    ("self signed", NetworkFault.UNTRUSTED),
    ("issuer certificate", NetworkFault.UNTRUSTED),
    ("unable to verify the first", NetworkFault.UNTRUSTED),
)
"""Messages of OpenSSL about a certificate. The codes of some of these messages differ between its versions."""
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|RECORD_LAYER_FAILURE")
"""Messages of OpenSSL about an answer that is not TLS."""
_ERRNO = re.compile(r"\[Errno (-?[0-9]+)\] ?")
_ERRNO_TEXT = re.compile(r"\[Errno (-?[0-9]+)\] [^,:;()\[\]]*")
_SSL_TEXT = re.compile(r"\[SSL: ([A-Z0-9_]+)\] (.*?) ?\(_ssl\.c:[0-9]+\)")


def network_fault(error: BaseException) -> NetworkFault | None:
    """Return the fault of the network or of TLS behind an error, or None if there is none."""
    return next(filter(None, map(_fault_of, _chain(error))), None)


def plain_reason(error: BaseException) -> str:
    """Return why something failed: in plain words if the network or TLS is the reason, else what the system says."""
    fault = network_fault(error)
    if fault is not None:
        return fault.reason
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    texts = [each.strerror for each in _chain(error) if isinstance(each, OSError) and each.strerror]
    return str(texts[-1] if texts else str(error) or type(error).__name__)


def in_plain_words(text: str) -> str:
    """Return the text of a library with the system errors that it quotes in plain words."""
    return _SSL_TEXT.sub(_tls_words, _ERRNO_TEXT.sub(_number_words, text))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the innermost last."""
    for _ in range(MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__  # also one that a library suppresses


def _fault_of(error: BaseException) -> NetworkFault | None:
    match error:
        case ssl.SSLError():
            return _of_tls_error(error)
        case gaierror():
            return _of_lookup(error.errno)
        case TimeoutError():
            return NetworkFault.TIMEOUT
        case OSError() if error.errno is None and isinstance(error, ConnectionError):
            return NetworkFault.CLOSED
        case OSError():
            return _BY_NUMBER.get(error.errno or _quoted_number(error))
        case _:
            return None


def _quoted_number(error: OSError) -> int:
    """Return the number of the error of the first of several addresses, which asyncio reports as a text."""
    found = _ERRNO.search(str(error))
    return 0 if found is None else int(found[1])


def _of_lookup(number: int | None) -> NetworkFault:
    return NetworkFault.NO_LOOKUP if number == EAI_AGAIN else NetworkFault.UNKNOWN_NAME


def _of_tls_error(error: ssl.SSLError) -> NetworkFault:
    match error:
        case ssl.SSLCertVerificationError():
            return _of_certificate(error.verify_message)
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return NetworkFault.CLOSED
        case _:
            return _of_tls(error.reason or str(error))


def _of_certificate(message: str) -> NetworkFault:
    return next((fault for part, fault in _CERTIFICATE if part in message.lower()), NetworkFault.BAD_CERTIFICATE)


def _of_tls(reason: str) -> NetworkFault:
    return NetworkFault.NO_TLS if _NO_TLS.search(reason) else NetworkFault.HANDSHAKE


def _number_words(match: re.Match[str]) -> str:
    number = int(match[1])
    fault = _of_lookup(number) if number < 0 else _BY_NUMBER.get(number)
    return match[0].removeprefix(f"[Errno {number}] ") if fault is None else fault.reason


def _tls_words(match: re.Match[str]) -> str:
    if match[1] == "CERTIFICATE_VERIFY_FAILED":
        return _of_certificate(match[2]).reason
    return _of_tls(match[1]).reason
