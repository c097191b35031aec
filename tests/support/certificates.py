"""Certificates for 127.0.0.1, in files, signed by a test authority."""

import ssl
from datetime import datetime
from pathlib import Path

import trustme


class Certificate:
    """A certificate in a folder with its private key; `trusting` returns the TLS context of a client."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue()

    def issue(self, key_type: trustme.KeyType = trustme.KeyType.ECDSA, *, not_after: datetime | None = None) -> None:
        """Issue a new certificate, and replace the current one."""
        own = self.authority.issue_cert("127.0.0.1", key_type=key_type, not_after=not_after)
        self.cert.write_bytes(own.cert_chain_pems[0].bytes())
        self.key.touch(0o600)
        self.key.write_bytes(own.private_key_pem.bytes())

    @property
    def settings(self) -> dict[str, str]:
        """The TLS settings of the service."""
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    @property
    def flags(self) -> list[str]:
        """The TLS settings as command-line options."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def trusting(
        self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, ciphers: str | None = None
    ) -> ssl.SSLContext:
        """Return the TLS context of a client that trusts the certificate, with at most this version."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        context.maximum_version = version
        if ciphers is not None:
            context.set_ciphers(ciphers)
        return context
