"""The first bytes of a TLS handshake, for clients that never complete it."""

import ssl


def client_hello(name: str = "localhost") -> bytes:
    """Return a ClientHello for this server name."""
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    handshake = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        handshake.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs an answer")
