"""The response to a renewal with an `Idempotency-Key`: as its receipt stores it, and as clients see it.

A client counts `granted` from the time before it sent the request. So a replay, which may come much later, must not
repeat it: it says what is left, and fails if the lease has ended, or if the record has changed since.
"""

from http.client import OK

from pydantic_core import from_json, to_json

from guidsvc.api.execution.guid_actions import GuidRequest, headers_of, preferred_renewal, renewal_members
from guidsvc.domain.leases.renewal import Renewal
from guidsvc.errors import Expired, NotFound, PreconditionFailed
from guidsvc.http.response import Response
from guidsvc.services.guid_service import GuidService


def stored_form(renewal: Renewal) -> Response:
    """Return the response that a receipt stores: whatever the client prefers or may see, it has all members."""
    members = renewal_members(renewal) | {"purge_at": str(renewal.record.purge_at)}
    return Response(OK, headers_of(renewal.record), to_json(members))


async def require_unchanged(service: GuidService, guid: str, stored: Response) -> None:
    """Raise NotFound, Expired or PreconditionFailed unless the record is as the stored response left it."""
    try:
        record = (await service.get(guid)).record
    except NotFound as error:
        raise NotFound(guid, is_renewal=True) from error
    except Expired as error:
        raise Expired(
            guid,
            expired_at=error.expired_at,
            renewable_until=error.renewable_until,
            is_revoked=error.is_revoked,
            is_renewal=True,
        ) from error
    if not headers_of(record).items() <= stored.headers.items():  # its version, above all
        wire = record.json_body if service.may_read else None
        raise PreconditionFailed(guid, record.version, wire, is_renewal=True)


def shown_form(stored: Response, request: GuidRequest, now: int, *, is_shown: bool) -> Response:
    """Return the response to the client at `now`, in Unix milliseconds; raise Expired if the lease has ended.

    `is_shown` if the client may see the renewal.
    """
    if stored.body is None:  # stored by a version that left out what the client did not want
        return stored
    members = from_json(stored.body)
    expire = int(members["expire"])
    left_ms = expire * 1000 - now
    purge_at = int(members.pop("purge_at", expire))  # earlier versions did not store it
    if left_ms <= 0:
        raise Expired(members["guid"], expired_at=expire, renewable_until=purge_at, is_renewal=True)
    members["granted"] = str(min(int(members["granted"]), left_ms // 1000))
    return preferred_renewal(request, stored.headers, to_json(members) if is_shown else None)
