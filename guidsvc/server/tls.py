"""TLS certificate and key, loaded from files and reloadable while connections continue.

A renewed certificate gets a new context, which each handshake looks up. Loading it into the existing context is unsafe:
a mismatched pair would leave that without either. If the key type changed, the old certificate would stay and be served
to some clients.
"""

import ssl
from contextlib import suppress
from pathlib import Path

import structlog

from guidsvc.bounded_file import read_file
from guidsvc.errors import StartError
from guidsvc.server.accepting.certificate_dates import not_after_of

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 cipher suites with forward secrecy and authenticated encryption. All of TLS 1.3 have both."""
PROTOCOLS = ["http/1.1"]
_CERTIFICATE, _KEY = b"CERTIFICATE", b"PRIVATE KEY"
"""The endings of PEM labels (RFC 7468)."""
_MISMATCH = (
    "tls_cert, tls_key: the key in {key} does not belong to the certificate in {certificate}; "
    "name the key that the certificate was issued for, and in the certificate file put that of the server first"
)
_REASONS = {"HTTP_REQUEST": "HTTP sent to an https port; use https://"}

_log = structlog.get_logger(__name__)


class Tls:
    """A certificate and its key from two files; raises StartError if they are unusable."""

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = certificate
        self._key = key
        self.not_after: float | None
        """The end of the validity of the current certificate, in Unix seconds; None if it has no valid date."""
        self._current = self.context = self._load()
        """The context for new connections; it switches each handshake to the current certificate."""
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Reload the files for future handshakes. If they are unusable, raise StartError and change nothing."""
        self._current = self._load()
        _log.info("certificate reloaded", certificate=self._certificate)

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Give a handshake the current certificate. OpenSSL calls this whether or not the client sends a host name."""
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        loaded, self.not_after = _load(self._certificate, self._key)
        self._warn_of_readers()
        return loaded

    def _warn_of_readers(self) -> None:
        with suppress(OSError):  # the file may have vanished
            mode = Path(self._key).stat().st_mode & 0o777
            if mode & 0o077:
                _log.warning("private key is readable by other users", key=self._key, mode=f"{mode:04o}")


def open_tls(certificate: str | None, key: str | None) -> Tls | None:
    """Return the TLS of these files, or None if neither is given. Raise StartError if they are unusable."""
    pair = _pair(certificate, key)
    return None if pair is None else Tls(*pair)


def validate_tls(certificate: str | None, key: str | None) -> None:
    """Raise StartError if TLS cannot use these files, or if only one is given."""
    pair = _pair(certificate, key)
    if pair is not None:
        _load(*pair)


def log_failed_handshake(address: str, error: Exception) -> None:
    """Log that the client at an address failed the TLS handshake, for example because it sent plain HTTP."""
    code = getattr(error, "reason", None) or str(error)
    _log.info("tls handshake failed", reason=_REASONS.get(code, code.replace("_", " ").lower()), remote=address)


def _pair(certificate: str | None, key: str | None) -> tuple[str, str] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("tls_cert, tls_key: TLS requires both the certificate and its key; set both, or neither")
    return certificate, key


def _load(certificate: str, key: str) -> tuple[ssl.SSLContext, float | None]:
    """Return a context with the certificate and key in these files, and when the certificate ends.

    Raise StartError if they are unusable.
    """
    try:
        contents = [read_file(path) for path in (certificate, key)]  # OpenSSL would block on a pipe
        try:
            return _context(certificate, key), not_after_of(contents[0])
        except ssl.SSLError as error:
            _reject_wrong_kind((certificate, contents[0]), (key, contents[1]))
            if error.reason == "KEY_VALUES_MISMATCH":
                raise StartError(_MISMATCH.format(key=key, certificate=certificate)) from error
            raise StartError(f"tls_cert, tls_key: {certificate}, {key}: {_unusable(error)}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        file = getattr(error, "filename", None) or f"{certificate}, {key}"
        is_unreadable = isinstance(error, (FileNotFoundError, PermissionError))
        remedy = "; name a PEM file that this user can read" if is_unreadable else ""
        raise StartError(f"tls_cert, tls_key: {file}: {reason}{remedy}") from error


def _unusable(error: ssl.SSLError) -> str:
    """Return that OpenSSL cannot use the files; most of its errors name no reason."""
    detail = f" ({error.reason.replace('_', ' ').lower()})" if error.reason else ""
    return f"OpenSSL cannot use the certificate or the key{detail}; name two whole PEM files, or issue them again"


def _reject_wrong_kind(certificate: tuple[str, bytes], key: tuple[str, bytes]) -> None:
    """Raise StartError if a file, given with its content, holds the wrong kind of PEM; OpenSSL reports `PEM lib`."""
    if not _holds(certificate[1], _CERTIFICATE):
        is_swapped = _holds(certificate[1], _KEY) and _holds(key[1], _CERTIFICATE)
        hint = "; the two files are swapped" if is_swapped else "; name the file of the certificate"
        raise StartError(f"tls_cert, tls_key: {certificate[0]}: contains no PEM certificate{hint}")
    if not _holds(key[1], _KEY):
        raise StartError(f"tls_cert, tls_key: {key[0]}: contains no PEM private key; name the file of the key")


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
    """Reject an encrypted key: OpenSSL would prompt for its password at the terminal, and block."""
    raise ValueError("the private key is encrypted; use one without a password")
