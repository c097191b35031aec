"""API keys, for admins: `/keys`, `/keys/{id}`, and `/keys/{id}/rotation`.

The text of a key is in the one reply that makes it, and nowhere else: no reply here may be kept by anybody, nor for an
Idempotency-Key.
"""

from http.client import CREATED, NO_CONTENT, OK

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas as answers
from guidsvc.api.contract.headers import IDEMPOTENCY_KEY, LINK, LOCATION, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.parsing.key_schemas import KeyCreation, KeysQuery, Rotation
from guidsvc.api.parsing.query import link_to_next
from guidsvc.api.resources.guid import BAD_BODY
from guidsvc.domain.api_key import EXAMPLE_ID, KEY_ID_PATTERN
from guidsvc.domain.caller import ADMIN
from guidsvc.domain.commands import NoQuery
from guidsvc.errors import Forbidden, InvalidField, InvalidRequest, KeyNotActive, NoSuchKey, OutcomeUnknown
from guidsvc.services.key_service import Issued, KeyService

_LOCATION = LOCATION._replace(description="Where the new key is.", example=f"/keys/{EXAMPLE_ID}")
_LINK = LINK._replace(example=f'</keys?cursor={EXAMPLE_ID}>; rel="next"')


class KeyServiceHandler(Handler):
    """What all of these paths have in common."""

    label = "keys"

    @property
    def keyring(self) -> KeyService:
        """The keys; Forbidden where anybody may ask: they would make themselves keys for when that is no longer so."""
        if self.context.authenticator is None:
            raise Forbidden(
                None, "While access control is off keys are made by the command, python pdapt.py keys create, only."
            )
        return self.context.keys.acting_for(self.caller)

    def refuse_idempotency(self) -> None:
        """Refuse a request that is to be answered with a key, and that asks for its answer to be kept."""
        if IDEMPOTENCY_KEY.name in self.request.headers:
            raise InvalidRequest(
                InvalidField(
                    "", "is not taken here: an answer that shows a key is not kept", header=IDEMPOTENCY_KEY.name
                )
            )

    def reply_issued(self, status: int, issued: Issued) -> None:
        """End the request with a key and its text."""
        self.reply(status, self.keyring.describe(issued.key) | {"key": issued.text})


class KeysHandler(KeyServiceHandler):
    """All keys."""

    @operation(
        "listKeys",
        "List API keys",
        ResponseSpec(200, "A page of them.", answers.KeyPage, headers=(_LINK,)),
        query=KeysQuery,
        problems=(InvalidRequest,),
        required_scope=ADMIN,
    )
    async def get(self) -> None:
        """Answer with a page of the keys, in the order of their ids: also of those that are no longer good."""
        keyring, query = self.keyring, self.read_query(KeysQuery)
        async with self.slot():
            found = await keyring.page(query.cursor or "", query.page + 1)
        page = found[: query.page]
        cursor = page[-1].id if len(found) > len(page) else None
        if cursor is not None:
            self.set_header("Link", link_to_next(self.request, cursor))
        self.reply(OK, {"items": [keyring.describe(key) for key in page], "next": cursor})

    head = get

    @operation(
        "createKey",
        "Create an API key",
        ResponseSpec(201, "It was created.", answers.IssuedKey, headers=always(_LOCATION)),
        query=NoQuery,
        body=KeyCreation,
        problems=(*BAD_BODY, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def post(self) -> None:
        """Create a key, and answer with its text, `key`, which is not kept, and is never shown again."""
        keyring = self.keyring
        self.read_query(NoQuery)
        self.refuse_idempotency()
        creation = self.read_body(KeyCreation)
        async with self.slot():
            issued = await keyring.create(creation.owner, creation.scopes, expire=creation.expire)
        self.set_header("Location", f"/keys/{issued.key.id}")
        self.reply_issued(CREATED, issued)


class OneKeyHandler(KeyServiceHandler):
    """A key, named in the path."""

    in_path = {
        "id": {
            "type": "string",
            "pattern": KEY_ID_PATTERN,
            "description": "The id of a key: what stands between `gs_` and the next `_`.",
            "examples": [EXAMPLE_ID],
        }
    }


class KeyHandler(OneKeyHandler):
    """One key."""

    @operation(
        "getKey",
        "Read an API key",
        ResponseSpec(200, "What is known of it.", answers.Key),
        query=NoQuery,
        problems=(InvalidRequest, NoSuchKey),
        required_scope=ADMIN,
    )
    async def get(self, key_id: str) -> None:
        """Answer with what is known of a key, good or not: whose it is, what it may do, and when it was used."""
        keyring = self.keyring
        self.read_query(NoQuery)
        async with self.slot():
            key = await keyring.get(key_id)
        self.reply(OK, keyring.describe(key))

    head = get

    @operation(
        "revokeKey",
        "Revoke an API key",
        ResponseSpec(204, "It is revoked."),
        query=NoQuery,
        problems=(InvalidRequest, NoSuchKey, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def delete(self, key_id: str) -> None:
        """Revoke a key, even the one that is shown. All refuse it within 5 seconds; it stays in the list."""
        keyring = self.keyring
        self.read_query(NoQuery)
        async with self.slot():
            await keyring.revoke(key_id)
        self.reply(NO_CONTENT)


class RotationHandler(OneKeyHandler):
    """A new secret for a key."""

    @operation(
        "createRotation",
        "Rotate an API key",
        ResponseSpec(200, "The key, with its new text.", answers.IssuedKey),
        query=NoQuery,
        body=Rotation,
        problems=(NoSuchKey, KeyNotActive, *BAD_BODY, OutcomeUnknown),
        required_scope=ADMIN,
    )
    async def post(self, key_id: str) -> None:
        """Give a key a new text, and answer with it. The text before is good for the `overlap`; one before that ends.

        Id, owner, scopes and expiry stay.
        """
        keyring = self.keyring
        self.read_query(NoQuery)
        self.refuse_idempotency()
        rotation = self.read_body(Rotation)
        async with self.slot():
            issued = await keyring.rotate(key_id, overlap=rotation.overlap)
        self.reply_issued(OK, issued)
