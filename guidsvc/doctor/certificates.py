"""The time in which a TLS certificate is valid, found by a handshake in memory, which needs no library but OpenSSL."""

import ssl
from contextlib import suppress
from typing import NamedTuple

from guidsvc.bounded_file import read_file
from guidsvc.server.tls import open_tls

_IGNORE_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, so that expired certificates can be read too."""
_STEPS = 10


class Validity(NamedTuple):
    """The Unix times between which a certificate is valid."""

    begin: float
    end: float


def validity(certificate: str, key: str) -> Validity | None:
    """Return when the certificate in a file is valid, or None if OpenSSL does not trust it for servers at all."""
    tls = open_tls(certificate, key)
    if tls is None:
        return None
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cadata=read_file(certificate).decode("ascii", "ignore"))
    trusting.verify_flags |= ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _IGNORE_TIME)
    try:
        members = _peer_certificate(tls.context, trusting)
    except ssl.SSLError:
        return None
    return Validity(*(float(ssl.cert_time_to_seconds(str(members[name]))) for name in ("notBefore", "notAfter")))


def _peer_certificate(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> dict[str, object]:
    """Return the members of the certificate that the server shows the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_STEPS):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return dict(client.getpeercert() or {})
