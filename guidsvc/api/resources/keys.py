"""API keys, for admins: `/keys`, `/keys/{id}`, and `/keys/{id}/rotation`; and for the holder of any: `/keys/self`.

Only the response that creates or rotates a key contains its text. So no cache may store responses of these paths, and
none is stored for an Idempotency-Key.
"""

from contextlib import AbstractAsyncContextManager
from http.client import CREATED, NO_CONTENT, OK
from typing import Any

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import LINK, LOCATION, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.parsing.idempotency_key import reject_key
from guidsvc.api.parsing.key_schemas import KeyCreation, KeyPatch, KeysQuery, Rotation
from guidsvc.api.parsing.query import link_to_next
from guidsvc.api.resources.guid import BAD_BODY
from guidsvc.auth.authenticator import Authenticator
from guidsvc.auth.session import Session
from guidsvc.domain.api_key import EXAMPLE_ID, KEY_ID_PATTERN, ApiKey
from guidsvc.domain.caller import ADMIN, KEY, SCOPES, WRITE
from guidsvc.domain.commands import ListQuery, NoQuery
from guidsvc.errors import Forbidden, InvalidRequest, KeyNotActive, NoSuchKey, OutcomeUnknown
from guidsvc.http.constants import PATCHES
from guidsvc.program import runnable
from guidsvc.services.key_service import Issued, KeyService

_LOCATION = LOCATION._replace(description="The path of the new key.", example=f"/keys/{EXAMPLE_ID}")
_LINK = LINK._replace(example=f'</keys?cursor={EXAMPLE_ID}>; rel="next"')


class KeyServiceHandler(Handler):
    """Base class of the handlers of keys."""

    label = "keys"

    @property
    def key_service(self) -> KeyService:
        """The key service. Raise Forbidden without access control, because anybody could create keys for later use."""
        if self.context.authenticator is None:
            raise Forbidden(
                None,
                "Access control is off, so keys cannot be managed over HTTP: start the service with --access keys, "
                f"or use the command {runnable('keys')}.",
            )
        return self.context.keys.acting_for(self.caller)

    def reject_idempotency_key(self) -> None:
        """Reject an Idempotency-Key: the response contains a key and must not be stored."""
        reject_key(self.request.headers, "is not accepted here, as responses with keys are never stored; remove it")

    def respond_issued(self, status: int, issued: Issued) -> None:
        """Respond with a key and its text."""
        self.respond(status, self.key_service.describe(issued.key) | {"key": issued.text})


class KeysHandler(KeyServiceHandler):
    """The collection of all keys."""

    @operation(
        "listKeys",
        "List API keys",
        ResponseSpec(200, "A page of keys.", schemas.KeyPage, headers=(_LINK,)),
        query=KeysQuery,
        problems=(InvalidRequest,),
        required_scope=ADMIN,
    )
    async def get(self) -> None:
        """Return a page of the keys that match the query, sorted by id, including revoked and expired ones."""
        key_service, query = self.key_service, self.read_query(KeysQuery)
        async with self.confirmed_slot():
            page = await key_service.page(query.cursor or "", query.page_size, query.wanted)
        if page.next is not None:
            self.set_header("Link", link_to_next(self.request, page.next))
        self.respond(OK, {"items": [key_service.describe(key) for key in page.keys], "next": page.next})

    head = get

    @operation(
        "createKey",
        "Create an API key",
        ResponseSpec(201, "The key was created.", schemas.IssuedKey, headers=always(_LOCATION)),
        query=NoQuery,
        body=KeyCreation,
        problems=(*BAD_BODY, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def post(self) -> None:
        """Create a key and return its text, `key`. The service does not store the text and never shows it again."""
        key_service = self.key_service
        self.read_query(NoQuery)
        self.reject_idempotency_key()
        async with self.slot():
            creation = await self.read_body(KeyCreation)
            await self.confirm()
            issued = await key_service.create(
                creation.owner, creation.scopes, expire=creation.expire, note=creation.note, limits=creation.limits
            )
        self.set_header("Location", f"/keys/{issued.key.id}")
        self.respond_issued(CREATED, issued)


class OwnKeyHandler(Handler):
    """The key or token of the request itself."""

    label = "keys"

    @operation(
        "getOwnKey",
        "Read your own API key",
        ResponseSpec(200, "Who you are, and what you may do.", schemas.OwnKey),
        query=NoQuery,
        problems=(InvalidRequest,),
        required_scope=KEY,
    )
    async def get(self) -> None:
        """Return the owner, scopes, expiry and limits of the key or token of this request, never its secret.

        No scope is needed. Without access control, the response says so, and names all scopes.
        """
        self.read_query(NoQuery)
        authenticator, session = self.context.authenticator, self.session
        async with self._slot(session):
            if authenticator is None or session is None:
                self.respond(OK, {"access": "off", "scopes": list(SCOPES)})
            else:
                self.respond(OK, await self._describe(authenticator, session))

    head = get

    async def _describe(self, authenticator: Authenticator, session: Session) -> dict[str, Any]:
        credential = await authenticator.credential_of(session)
        if isinstance(credential, ApiKey):
            members = self.context.keys.describe(credential)
        else:
            caller = session.caller
            scopes = [scope for scope in SCOPES if scope in caller.scopes]
            members = {"owner": caller.owner, "scopes": scopes, "expire": str(credential), "state": "live"}
        return {"access": "keys"} | members | self._rate(session) | await self._quota(session)

    def _rate(self, session: Session) -> dict[str, Any]:
        rate = session.allowance.usage()
        return {} if rate is None else {"rate": rate._asdict()}

    async def _quota(self, session: Session) -> dict[str, Any]:
        """Return the quota and the live GUIDs that count against it. Only callers that may write are limited by it."""
        if not self._has_quota(session):
            return {}
        live = await self.context.service.acting_for(self.caller).count(_live(session), self.queue_name)
        return {"quota": {"limit": self.context.quota, "live": live}}

    def _has_quota(self, session: Session) -> bool:
        return bool(self.context.quota) and session.caller.may(WRITE)

    def _slot(self, session: Session | None) -> AbstractAsyncContextManager[None]:
        """Return an admission slot for the request, and one for a total if the response has a quota."""
        if session is None or not self._has_quota(session):
            return self.slot()
        service = self.context.service.acting_for(self.caller)
        return self.list_slot(service.list_slots(_live(session), has_total=True))


def _live(session: Session) -> ListQuery:
    return ListQuery(owner=session.caller.owner, state="live")


class OneKeyHandler(KeyServiceHandler):
    """Base class of the handlers of one key, named in the path."""

    in_path = {
        "id": {
            "type": "string",
            "pattern": KEY_ID_PATTERN,
            "description": "The id of a key: the part of its text between `gs_` and the next `_`.",
            "examples": [EXAMPLE_ID],
        }
    }


class KeyHandler(OneKeyHandler):
    """One key."""

    @operation(
        "getKey",
        "Read an API key",
        ResponseSpec(200, "The key, without its text.", schemas.Key),
        query=NoQuery,
        problems=(InvalidRequest, NoSuchKey),
        required_scope=ADMIN,
    )
    async def get(self, key_id: str) -> None:
        """Return the owner, scopes, last use and state of a key, valid or not."""
        key_service = self.key_service
        self.read_query(NoQuery)
        async with self.confirmed_slot():
            key = await key_service.get(key_id)
        self.respond(OK, key_service.describe(key))

    head = get

    @operation(
        "patchKey",
        "Change the note of an API key",
        ResponseSpec(200, "The key, without its text.", schemas.Key),
        query=NoQuery,
        body=KeyPatch,
        media_types=PATCHES,
        problems=(NoSuchKey, *BAD_BODY, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def patch(self, key_id: str) -> None:
        """Set the note of a key, valid or not, or remove it with `null`. Nothing else of a key can be changed."""
        key_service = self.key_service
        self.read_query(NoQuery)
        async with self.slot():
            change = await self.read_body(KeyPatch, PATCHES)
            await self.confirm()
            has_note = "note" in change.model_fields_set
            key = await (key_service.set_note(key_id, change.note) if has_note else key_service.get(key_id))
        self.respond(OK, key_service.describe(key))

    @operation(
        "revokeKey",
        "Revoke an API key",
        ResponseSpec(204, "The key was revoked."),
        query=NoQuery,
        problems=(InvalidRequest, NoSuchKey, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def delete(self, key_id: str) -> None:
        """Revoke a key, even that of this request. All processes reject it within 5 seconds. It stays in the list."""
        key_service = self.key_service
        self.read_query(NoQuery)
        async with self.confirmed_slot():
            await key_service.revoke(key_id)
        self.respond(NO_CONTENT)


class RotationHandler(OneKeyHandler):
    """The rotation of a key."""

    @operation(
        "createRotation",
        "Rotate an API key",
        ResponseSpec(200, "The key, with its new text.", schemas.IssuedKey),
        query=NoQuery,
        body=Rotation,
        problems=(NoSuchKey, KeyNotActive, *BAD_BODY, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def post(self, key_id: str) -> None:
        """Give a key a new secret, and return its new text.

        The previous secret stays valid for `overlap` seconds; an older one ends at once. The id, owner, scopes and
        expiry do not change.
        """
        key_service = self.key_service
        self.read_query(NoQuery)
        self.reject_idempotency_key()
        async with self.slot():
            rotation = await self.read_body(Rotation)
            await self.confirm()
            issued = await key_service.rotate(key_id, overlap=rotation.overlap)
        self.respond_issued(OK, issued)
