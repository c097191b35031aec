"""The expiry of a certificate, as read from its file."""

import re
import textwrap
from base64 import b64decode, b64encode
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509

from guidsvc.server.accepting.certificate_dates import not_after_of

DATES = [
    datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2049, 12, 31, tzinfo=UTC),
    datetime(2050, 1, 1, tzinfo=UTC),
    datetime(9999, 1, 1, tzinfo=UTC),
]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, not_after: datetime) -> bytes:
    """Return a certificate with this expiry."""
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return authority.issue_cert("127.0.0.1", not_before=start, not_after=not_after).cert_chain_pems[0].bytes()


@pytest.mark.parametrize("not_after", DATES, ids=str)
def test_date_is_read_as_openssl_reads_it(authority: trustme.CA, not_after: datetime) -> None:
    """With a year of two digits, and with one of four."""
    pem = issue(authority, not_after)
    assert not_after_of(pem) == x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    assert not_after_of(pem) == not_after.timestamp()


@pytest.mark.parametrize("label", [b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"])
def test_first_certificate_of_a_chain_counts_under_any_label(authority: trustme.CA, label: bytes) -> None:
    first = issue(authority, DATES[1]).replace(b" CERTIFICATE", b" " + label)
    assert not_after_of(b"a comment\n" + first + issue(authority, DATES[2])) == DATES[1].timestamp()


@pytest.mark.parametrize("text", [b"491301000000Z", b"4912310000+00", b"\xff" * 13])
def test_malformed_date_is_unknown(authority: trustme.CA, text: bytes) -> None:
    pem = issue(authority, DATES[1])
    der = b64decode(re.sub(rb"-----.*", b"", pem)).replace(b"491231000000Z", text)
    lines = "\n".join(textwrap.wrap(b64encode(der).decode(), 64))
    assert not_after_of(f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n".encode()) is None


def test_file_without_a_certificate_has_no_date() -> None:
    assert not_after_of(b"") is None
