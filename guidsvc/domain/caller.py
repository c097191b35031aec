"""Who asks, and what they may: callers, their scopes, and whose a record is.

The one place that judges it is `authorize`, which stands after every load of a record. How somebody shows who they are
is none of its business, nor is what they are answered.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from guidsvc.domain.record import Record
from guidsvc.errors import Forbidden

Scope = Literal["read", "write", "delete", "admin"]
"""What a caller may do to the records of its owner; an admin may do all of that, to the records of all."""
READ: Scope = "read"
WRITE: Scope = "write"
DELETE: Scope = "delete"
ADMIN: Scope = "admin"
SCOPES: tuple[Scope, ...] = get_args(Scope)


Needs = Scope | Literal["key"]
"""What something takes: a scope; or a key, whatever its scopes, as they are judged part by part."""
KEY: Needs = "key"


class Caller(NamedTuple):
    """Who asks: on behalf of which owner, with which scopes, and by which name the logs know them.

    A name is that of a key (`key:...`) or of a token (`jwt:...`), never a secret.
    """

    owner: str
    scopes: frozenset[Scope]
    name: str

    @property
    def is_admin(self) -> bool:
        """Whether they see the records of all."""
        return ADMIN in self.scopes

    @property
    def authority(self) -> tuple[str, ...]:
        """What they may do, and the kind of their credential: a key, or a token of the issuer."""
        return (self.name.partition(":")[0], *sorted(self.scopes))

    def may(self, scope: Scope) -> bool:
        """Whether they may do that."""
        return scope in self.scopes or ADMIN in self.scopes

    def demand(self, needs: Needs) -> None:
        """Forbidden, unless they may do what takes that."""
        if needs not in self.scopes and needs != KEY and ADMIN not in self.scopes:
            raise Forbidden(needs)


ANYONE = Caller("", frozenset(SCOPES), "anyone")
"""Who asks where access control is off."""


def authorize(record: Record | None, caller: Caller) -> Record | None:
    """Return a record if the caller may know of it; what is another's is as if it were not there."""
    if record is None or record.owner == caller.owner or caller.is_admin:
        return record
    return None


def scopes_of(names: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes that are named; ValueError if one is none, or there is none."""
    given = frozenset(names)
    if not given or not given <= frozenset(SCOPES):
        raise ValueError(f"scopes are {', '.join(SCOPES)}, not {', '.join(sorted(given)) or 'none'}")
    return frozenset(scope for scope in SCOPES if scope in given)
