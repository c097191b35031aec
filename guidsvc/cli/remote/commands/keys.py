"""`keys --url`: the API keys of a running service. The commands themselves are in `guidsvc.cli.keys`."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from guidsvc.cli import output
from guidsvc.cli.keys.administration import Document, KeyWithSecret, NewKey
from guidsvc.cli.remote.command import note_key, reporting
from guidsvc.cli.remote.documents import key_document
from guidsvc.cli.remote.failures import Advice
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.target import target_of
from guidsvc.cli.rendering import Rendering
from guidsvc.domain.api_key import KeyFilter
from guidsvc.program import runnable
from guidsvc_client import IssuedKey
from guidsvc_client.protocol.key_calls import KeyFilter as Selection
from guidsvc_client.protocol.key_calls import KeyLimits


class ServiceKeys:
    """The keys of a service."""

    def __init__(self, remote: Remote, flags: Sequence[str]) -> None:
        self.flags = flags
        self._remote = remote
        self._keys = remote.client.keys

    def create(self, key: NewKey) -> KeyWithSecret:
        """Create a key."""
        optional: KeyLimits = {}
        if key.expire is not None:
            optional["expire"] = key.expire
        if key.note is not None:
            optional["note"] = key.note
        if key.limits.max_ttl:
            optional["max_ttl"] = key.limits.max_ttl
        if key.limits.max_life:
            optional["max_life"] = key.limits.max_life
        return _with_secret(self._keys.create(key.owner, key.scopes, **optional))

    def list(self, wanted: KeyFilter) -> Iterator[Document]:
        """Yield the matching keys, ordered by id."""
        selection: Selection = {}
        if wanted.owner is not None:
            selection["owner"] = wanted.owner
        if wanted.state is not None:
            selection["state"] = wanted.state
        if wanted.text is not None:
            selection["q"] = wanted.text
        return map(key_document, self._keys.list(**selection))

    def get(self, key_id: str) -> Document:
        """Return a key."""
        return key_document(self._keys.get(key_id))

    def set_note(self, key_id: str, note: str | None) -> Document:
        """Set the note of a key, or remove it; return the key."""
        return key_document(self._keys.set_note(key_id, note))

    def revoke(self, key_id: str) -> Document:
        """Revoke a key, and return its state before that: the command may use this key, and could not read it later."""
        document = {} if self._remote.is_curl else self.get(key_id)
        self._keys.revoke(key_id)
        return document

    def rotate(self, key_id: str, overlap: int) -> KeyWithSecret:
        """Give a key a new secret. The current one stays valid for `overlap` seconds."""
        return _with_secret(self._keys.rotate(key_id, overlap))


def _with_secret(issued: IssuedKey) -> KeyWithSecret:
    return KeyWithSecret(key_document(issued), issued.key)


@contextmanager
def service_keys(
    url: str | None, key_file: str | None, profile: str | None, *, is_curl: bool, is_write: bool
) -> Iterator[ServiceKeys]:
    """Yield the keys of the service that the options name. Inside, errors are reported, with the exit code."""
    target = target_of(url, key_file, profile)
    remote = Remote(target, Rendering("lines"), is_curl=is_curl)
    note_key(remote)
    if not is_curl:
        output.tell(f"service: {target.url}")
    named = {"--url": url, "--profile": profile, "--key-file": key_file}
    flags = [word for name, value in named.items() if value for word in (name, value)]
    with reporting(remote, is_write=is_write, advice=_advice(flags)):
        yield ServiceKeys(remote, flags)


def _advice(flags: Sequence[str]) -> Advice:
    look = f"`{runnable(shlex.join(['keys', 'list', *flags]))}`"
    return Advice(
        doubt=f"look at {look} before you try again; revoke a new key whose text you have not seen",
        not_found=f"{look} shows the ids of all keys.",
    )
