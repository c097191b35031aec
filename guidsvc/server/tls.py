"""What TLS is spoken with: a certificate and its key, from files that may be read anew while connections go on.

A certificate that is renewed comes with a context of its own, which each handshake asks for. To load it into the one
that there is would not do: a pair that does not belong together would leave that without either, and beside a
certificate with another kind of key the old one would stay, and be served to some.
"""

import ssl
from contextlib import suppress
from pathlib import Path

import structlog

from guidsvc.bounded_file import read_file
from guidsvc.errors import StartError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that keep what was sent secret though the key be lost later, and notice what is changed; as all do
of 1.3."""
PROTOCOLS = ["http/1.1"]
_CERTIFICATE, _KEY = b"CERTIFICATE", b"PRIVATE KEY"
"""What the labels of PEM (RFC 7468) end with."""

_log = structlog.get_logger(__name__)


class Tls:
    """The certificate and key in two files; StartError if they are no use."""

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = certificate
        self._key = key
        self._current = self.context = self._load()
        """What connections are accepted with, whichever certificate is the current one."""
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files anew, for handshakes to come; StartError, and nothing has changed, if they are no use."""
        self._current = self._load()
        _log.info("certificate reloaded", certificate=self._certificate)

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Give a handshake the current certificate; whether or not the client names a host, it comes here."""
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        try:
            contents = [read_file(path) for path in (self._certificate, self._key)]  # OpenSSL would wait for a pipe
            try:
                loaded = _context(self._certificate, self._key)
            except ssl.SSLError:
                self._refuse_wrong_kind(*contents)
                raise
        except (OSError, ValueError) as error:  # of which ssl.SSLError is one
            why = getattr(error, "strerror", None) or error
            where = getattr(error, "filename", None) or f"{self._certificate}, {self._key}"
            raise StartError(f"tls_cert, tls_key: {where}: {why}") from error
        self._warn_of_readers()
        return loaded

    def _refuse_wrong_kind(self, certificate: bytes, key: bytes) -> None:
        """Raise StartError for a file that does not hold what it should; OpenSSL only says `PEM lib`."""
        if not _holds(certificate, _CERTIFICATE):
            swapped = "; the two are swapped" if _holds(certificate, _KEY) and _holds(key, _CERTIFICATE) else ""
            raise StartError(f"tls_cert, tls_key: {self._certificate}: holds no certificate in PEM{swapped}")
        if not _holds(key, _KEY):
            raise StartError(f"tls_cert, tls_key: {self._key}: holds no private key in PEM")

    def _warn_of_readers(self) -> None:
        with suppress(OSError):  # it was there a moment ago
            mode = Path(self._key).stat().st_mode & 0o777
            if mode & 0o077:
                _log.warning("others can read the key of the certificate", key=self._key, mode=f"{mode:04o}")


def open_tls(certificate: str | None, key: str | None) -> Tls | None:
    """Return the TLS that files are named for; None if there are none, StartError if they are no use."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("tls_cert, tls_key: TLS takes both, the certificate and its key")
    return Tls(certificate, key)


def _holds(content: bytes, kind: bytes) -> bool:
    return b"-----BEGIN " in content and kind + b"-----" in content


def _context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    context.load_cert_chain(certificate, key, password=_no_password)
    return context


def _no_password() -> str:
    """Refuse a key that is encrypted: OpenSSL would ask for the password at the terminal, and wait."""
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")
