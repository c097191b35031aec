"""Certificates for 127.0.0.1, in files, signed by an authority of the tests' own."""

import ssl
from datetime import datetime
from pathlib import Path

import trustme


class Certificate:
    """A certificate in a folder, and its key, which nobody else can read; `trusting` is what a client believes."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue()

    def issue(self, key_type: trustme.KeyType = trustme.KeyType.ECDSA, *, not_after: datetime | None = None) -> None:
        """Make a new certificate, and put it in the place of the one that there is."""
        own = self.authority.issue_cert("127.0.0.1", key_type=key_type, not_after=not_after)
        self.cert.write_bytes(own.cert_chain_pems[0].bytes())
        self.key.touch(0o600)
        self.key.write_bytes(own.private_key_pem.bytes())

    @property
    def settings(self) -> dict[str, str]:
        """The settings that name it."""
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    @property
    def flags(self) -> list[str]:
        """The same, for a command."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def trusting(
        self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, ciphers: str | None = None
    ) -> ssl.SSLContext:
        """Return what a client speaks TLS with that believes it, at most of this version."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        context.maximum_version = version
        if ciphers is not None:
            context.set_ciphers(ciphers)
        return context
