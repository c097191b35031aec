"""The end of the validity of a certificate. The standard library returns it only for a verified peer.

The parser reads what leads to that date in a certificate (RFC 5280, 4.1), which OpenSSL has accepted before.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
"""Tags of DER: the version, which may be left out, and a time whose year has two digits."""
_LONG = 0x80
"""Marks a length that takes several bytes."""
_VALIDITY = 3
"""The position of the validity after the version: behind the serial number, the signature algorithm and the issuer."""


def not_after_of(pem: bytes) -> float | None:
    """Return when the first certificate of a PEM file ends, in Unix seconds; None if its date is malformed."""
    found = _PEM.search(pem)
    if found is None:
        return None
    _, certificate = next(_elements(b64decode(found[1])))
    _, signed_part = next(_elements(certificate))
    members = [each for each in _elements(signed_part) if each[0] != _VERSION]
    _, (tag, text) = _elements(members[_VALIDITY][1])
    try:
        return _time_of(tag, text.decode("ascii", "replace"))
    except ValueError:  # OpenSSL checks no date when it loads a certificate
        return None


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element of a sequence in DER (X.690)."""
    start = 0
    while start < len(der):
        tag, size, start = der[start], der[start + 1], start + 2
        if size & _LONG:
            digits = size & ~_LONG
            size, start = int.from_bytes(der[start : start + digits], "big"), start + digits
        yield tag, der[start : start + size]
        start += size


def _time_of(tag: int, text: str) -> float:
    """Return a time in Unix seconds. Years of two digits are those from 1950 to 2049."""
    century = ("19" if text >= "50" else "20") if tag == _UTC_TIME else ""
    return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
