"""What is listened on: an address and port or a Unix socket, with TLS or without."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from tornado.netutil import bind_sockets

from guidsvc.errors import StartError

BACKLOG = 4096
"""So many connections may wait to be accepted, as far as the system lets them (net.core.somaxconn)."""


@contextmanager
def listening(host: str, port: int, unix_socket: str | None) -> Iterator[list[socket]]:
    """Listen, inside, on the Unix socket if one is named, else on the address; StartError if that cannot be."""
    try:
        if unix_socket is None:
            sockets = bind_sockets(port, host, backlog=BACKLOG)
        else:
            sockets = [_unix_socket(Path(unix_socket))]
    except (OSError, UnicodeError, ValueError) as error:
        what = f"host, port: cannot listen on {host}:{port}" if unix_socket is None else f"unix_socket: {unix_socket}"
        raise StartError(f"{what}: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()
        if unix_socket is not None:
            Path(unix_socket).unlink(missing_ok=True)


def _unix_socket(path: Path) -> socket:
    """Listen on a Unix socket; one that is there already was left behind. Who may connect is the umask's to say."""
    listener = socket(AF_UNIX, SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def tls_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Return what TLS is spoken with, 1.2 at least, if files are named for it; StartError if they are no use."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("tls_cert, tls_key: TLS takes both, the certificate and its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"tls_cert, tls_key: {certificate}, {key}: {error.strerror or error}") from error
    return context
