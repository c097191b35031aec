"""Callers, their scopes, and authorization by record owner.

`authorize` is the only check of ownership and must follow every load of a record. Authentication and responses are
handled elsewhere.
"""

import re
import shlex
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from guidsvc.domain.leases.limits import UNLIMITED, LifeLimits
from guidsvc.domain.record import Record
from guidsvc.errors import Forbidden
from guidsvc.program import runnable

Scope = Literal["read", "write", "delete", "monitor", "admin"]
"""A permission on the records of the caller's owner, or `monitor`: to read metrics and counts, but no records.

`admin` includes the others and applies to all owners.
"""
READ: Scope = "read"
WRITE: Scope = "write"
DELETE: Scope = "delete"
MONITOR: Scope = "monitor"
ADMIN: Scope = "admin"
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PLAIN_OWNER = re.compile(r"[\w .,@:/+&-]{1,64}", re.ASCII)
"""An owner that a message may repeat."""

Needs = Scope | Literal["key"]
"""The requirement of an operation: a scope, or `key` for any authenticated caller."""
KEY: Needs = "key"  # scopes are checked for each part of the request


class Caller(NamedTuple):
    """An authenticated client: its owner, its scopes, and its name in the logs.

    The name is that of a key (`key:...`) or of a token (`jwt:...`), never a secret.
    """

    owner: str
    scopes: frozenset[Scope]
    name: str
    limits: LifeLimits = UNLIMITED
    """The longest life that its writes may give a record, besides the limits of the service."""

    @property
    def is_admin(self) -> bool:
        """Whether the caller may access the records of all owners."""
        return ADMIN in self.scopes

    @property
    def authority(self) -> tuple[str, ...]:
        """The kind of credential (API key, or token of the issuer), followed by the sorted scopes."""
        return (self.name.partition(":")[0], *sorted(self.scopes))

    def may(self, scope: Scope) -> bool:
        """Whether the caller has this scope."""
        return scope in self.scopes or ADMIN in self.scopes

    def demand(self, needs: Needs) -> None:
        """Raise Forbidden unless the caller meets this requirement."""
        if needs not in self.scopes and needs != KEY and ADMIN not in self.scopes:
            raise Forbidden(needs, self._lack(needs))

    def _lack(self, scope: str) -> str:
        """Say that the caller lacks a scope, and how to get it besides its own, for its own records."""
        if self.authority[0] == "jwt":
            return f"The token lacks the scope {scope}; ask its issuer for a token that has it."
        owner = self.owner if _PLAIN_OWNER.fullmatch(self.owner) else "NAME"
        scopes = ",".join(each for each in SCOPES if each in self.scopes or each == scope)
        command = key_command("--owner", owner, "--scopes", scopes)
        return f"The key lacks the scope {scope}. To create a key that has it, {command}"


def key_command(*options: str) -> str:
    """Return the command that creates a key, and where to run it. It does not show the URL of the store to clients."""
    return f"run with the --store-url of this service: {runnable('keys create')} {shlex.join(options)}"


ANYONE = Caller("", frozenset({READ, WRITE, DELETE, ADMIN}), "anyone")
"""The caller of every request while access control is off. Never change its scopes: stored receipts contain them."""


def authorize(record: Record | None, caller: Caller) -> Record | None:
    """Return the record, or None if it belongs to another owner: callers must not learn that it exists."""
    if record is None or record.owner == caller.owner or caller.is_admin:
        return record
    return None


def scopes_of(names: Iterable[str]) -> frozenset[Scope]:
    """Return the named scopes; raise ValueError if a name is unknown, or none is given."""
    requested = frozenset(names)
    if not requested or not requested <= frozenset(SCOPES):
        unknown = ", ".join(sorted(requested.difference(SCOPES))) or "none"
        raise ValueError(f"invalid scopes: {unknown}; use {', '.join(SCOPES)}")
    return frozenset(scope for scope in SCOPES if scope in requested)
