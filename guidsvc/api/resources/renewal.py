"""The resource `/guid/{guid}/renewal`: renewal of a lease."""

from collections.abc import Mapping
from typing import ClassVar

from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import IDEMPOTENCY_KEY, PREFER_MINIMAL, REPLAYED
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution import guid_actions
from guidsvc.api.execution.guid_actions import RENEWAL
from guidsvc.api.resources.guid import (
    BAD_BODY,
    CONDITIONS,
    OF_KEYS,
    OF_LIVES,
    OF_WRITES,
    OF_WRITTEN,
    GuidHandler,
    RecordHandler,
)
from guidsvc.api.resources.stored_renewal import require_unchanged, shown_form, stored_form
from guidsvc.domain.commands import NoQuery, RenewCommand
from guidsvc.domain.record import parse_guid
from guidsvc.errors import Expired, InvalidGuid, NotFound, PreconditionRequired
from guidsvc.http.response import Response
from guidsvc.services.idempotency import GuidFactory


class RenewalHandler(RecordHandler):
    """The renewal of the GUID in the path."""

    in_path = GuidHandler.in_path
    method_hints: ClassVar[Mapping[str, str]] = dict.fromkeys(("PUT", "PATCH"), "To renew the GUID, send a POST.")

    @operation(
        "createRenewal",
        "Renew a GUID",
        ResponseSpec(
            200,
            "The granted lifetime, if the key has the scope `read`.",
            schemas.Renewal,
            headers=(*OF_WRITTEN, REPLAYED),
        ),
        ResponseSpec(204, "No body: `return=minimal`, or the key lacks the scope `read`.", headers=OF_WRITTEN),
        query=NoQuery,
        headers=(*CONDITIONS, PREFER_MINIMAL, IDEMPOTENCY_KEY),
        body=schemas.RenewalRequest,
        problems=(
            *(InvalidGuid, NotFound, Expired, PreconditionRequired),
            *(*OF_LIVES, *BAD_BODY, *OF_WRITES, *OF_KEYS),
        ),
        required_scope=RENEWAL.scope,
    )
    async def post(self, text: str) -> None:
        """Move the expiry later, never earlier: a GUID that is valid for longer stays as it is.

        Renew again at `renew_at`: it is spread, so that leases of one moment are not renewed in one moment. A renewal
        that comes too late gets 410, unless it has `revive`. A limit may grant less than was asked for, and says so.
        """
        self.read_query(NoQuery)

        async with self.slot():
            parse_guid(text)
            asked = await self.read_body(RenewCommand)
            conditions = self.read_conditions()

            request, is_replay = self.guid_request(text), True

            async def renew(guid_factory: GuidFactory | None) -> Response:
                nonlocal is_replay
                is_replay = False
                if guid_factory is None:  # no receipt
                    return await guid_actions.execute_renewal(self.service, request, asked, conditions)
                return stored_form(await guid_actions.renew_lease(self.service, text, asked, conditions))

            async def show(stored: Response) -> Response:
                if is_replay:
                    await require_unchanged(self.service, text, stored)
                return shown_form(stored, request, self.service.now(), is_shown=self.service.may_read)

            await self.confirm()  # last, as a large body waits for its turn
            await self.send_idempotent(renew, repeatable=False, show=show)
