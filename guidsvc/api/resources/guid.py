"""The resource `/guid/{guid}`, and the base class that it shares with `/guid`."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import (
    CACHE_STATUS,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LAST_MODIFIED,
    LOCATION,
    OF_DATA_PAGES,
    PREFER_MINIMAL,
    PREFERENCE_APPLIED,
    VARY,
    always,
)
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution import guid_actions
from guidsvc.api.execution.guid_actions import ACTIONS, GuidRequest
from guidsvc.api.html.page import HTML
from guidsvc.api.html.record_pages import record_page
from guidsvc.api.parsing.query import query_with
from guidsvc.domain import lifecycle
from guidsvc.domain.commands import NoQuery, ReadQuery, RecordQuery
from guidsvc.domain.leases.errors import ExpiresTooSoon, LifeLimitReached
from guidsvc.domain.preconditions import ANY
from guidsvc.domain.record import EXAMPLE_GUID, GUID_PATTERN, Record, parse_guid, render_bodies
from guidsvc.errors import (
    Expired,
    IdempotencyMismatch,
    InProgress,
    InvalidGuid,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionRequired,
    QuotaExceeded,
    ReceiptsFull,
)
from guidsvc.http.constants import PATCHES
from guidsvc.http.errors import RENEWAL_HINT, TooLarge, UnsupportedMediaType
from guidsvc.http.response import Response
from guidsvc.runtime.fairness.decoding_turns import FREE_BYTES
from guidsvc.services.guid_service import GuidService
from guidsvc.telemetry.tracing import record_source

CONDITIONS = (IF_MATCH, IF_NONE_MATCH)
OF_RECORDS = always(ETAG, LAST_MODIFIED)
OF_READ = (*OF_RECORDS, CACHE_STATUS)
OF_WRITTEN = (*OF_RECORDS, PREFERENCE_APPLIED)
LEADS_TO = ("getGuid", "putGuid", "patchGuid", "deleteGuid")
"""Operations on an existing record."""
BAD_BODY = (InvalidRequest, TooLarge, UnsupportedMediaType)
OF_LIVES = (QuotaExceeded, LifeLimitReached)
OF_WRITES = (PreconditionFailed, OutcomeUnknown)

OF_KEYS = (IdempotencyMismatch, InProgress, ReceiptsFull)

CREATED_NOW = ResponseSpec(
    201,
    "The record was created. `return=minimal` omits the body.",
    schemas.GuidRecord,
    headers=(*always(LOCATION), *OF_WRITTEN),
    leads_to=LEADS_TO,
)
_UPDATED = ResponseSpec(
    200,
    "The updated record, if the key has the scope `read`.",
    schemas.GuidRecord,
    headers=OF_WRITTEN,
    leads_to=LEADS_TO,
)
_MINIMAL = ResponseSpec(
    204, "The record was updated. No body: `return=minimal`, or the key lacks the scope `read`.", headers=OF_WRITTEN
)
_Query = TypeVar("_Query", bound=RecordQuery)


class RecordHandler(Handler):
    """Base class of both resources: the service, and the rendering of records."""

    label = "guids"
    _full = False
    _valid_for: int | None = None

    @property
    def service(self) -> GuidService:
        """The service on behalf of the caller."""
        return self.context.service.acting_for(self.caller)

    def read_view(self, model: type[_Query]) -> _Query:
        """Parse the query, and render records in full from now on if it contains `view=full`."""
        query = self.read_query(model)
        self._full = query.view is not None
        return query

    def guid_request(self, guid: str = "") -> GuidRequest:
        """Return the request on a GUID, for `guid_actions`."""
        return GuidRequest(
            str(self.request.method),
            guid,
            self.request.headers,
            self.received,
            full=self._full,
            valid_for=self._valid_for,
            max_age=self.context.max_age,
            has_large_body=self.has_large_body,
        )

    def render_records(self, records: Iterable[Record]) -> list[bytes]:
        """Return records as JSON, in full with `view=full`."""
        if self._full:
            service = self.service
            return [service.full(record) for record in records]
        return render_bodies(records)


class GuidHandler(RecordHandler):
    """The GUID in the path."""

    in_path = {
        "guid": {
            "type": "string",
            "pattern": GUID_PATTERN,
            "description": "32 upper-case hexadecimal characters.",
            "examples": [EXAMPLE_GUID],
        }
    }
    method_hints: ClassVar[Mapping[str, str]] = {"POST": RENEWAL_HINT}

    @operation(
        "getGuid",
        "Read a GUID",
        ResponseSpec(
            200,
            "The record.",
            schemas.GuidRecord,
            other={HTML: "The record as a page, without an entity tag."},
            headers=(ETAG, LAST_MODIFIED, CACHE_STATUS, *OF_DATA_PAGES),
        ),
        ResponseSpec(
            304, "The record has an entity tag of `If-None-Match`.", headers=(ETAG, LAST_MODIFIED, CACHE_STATUS, VARY)
        ),
        query=ReadQuery,
        headers=CONDITIONS,
        problems=(InvalidGuid, InvalidRequest, NotFound, Expired, ExpiresTooSoon, PreconditionFailed),
        required_scope=ACTIONS["GET"].scope,
    )
    async def get(self, text: str) -> None:
        """Return the record of a live GUID. An expired GUID returns 410, whatever the preconditions."""
        self._valid_for = self.read_view(ReadQuery).valid_for
        if self.prefers_page():
            await self._finish_page(text)
            return
        response = self._cached_response(self.guid_request(text))
        if response is None:
            await self._finish_action(text)
        else:
            self.send(response)

    head = get

    async def _finish_page(self, text: str) -> None:
        """Finish the request with the page of a record. Having no entity tag, it matches no If-None-Match but `*`."""
        conditions = self.read_conditions()
        if conditions.if_none_match != ANY:
            conditions = replace(conditions, if_none_match=None)
        async with self.confirmed_slot():
            record, is_wanted = await self.service.get(parse_guid(text), conditions, self._valid_for)
            if is_wanted and len(record.metadata or "") > FREE_BYTES:
                await self._take_turn_of_page(record)
        if is_wanted:
            (record_json,) = self.render_records([record])
            self.respond_page(record_page((record, record_json), self.request.path, partial(query_with, self.request)))
        else:
            self.vary("Accept")
            self.respond(304)

    async def _take_turn_of_page(self, record: Record) -> None:
        """Wait for a turn at rendering large metadata; raise the error of the read if it has come too late by then."""
        await self.pipeline.readers.take_turn(self.queue_name)
        now = self.service.now()
        lifecycle.require_live(record.guid, record, now)
        lifecycle.require_valid_for(record, self._valid_for or 0, now)

    def _cached_response(self, request: GuidRequest) -> Response | None:
        """Return the response to a read if the cache has it, and record its source; None if the store must be read."""
        cache_metrics = self.context.monitor.meters.cache
        misses = cache_metrics.misses
        response = guid_actions.get_nowait(self.service, request)
        if response is not None:
            record_source(cache_metrics.source(misses))
        return response

    @operation(
        "putGuid",
        "Create or update a GUID",
        _UPDATED,
        CREATED_NOW,
        _MINIMAL,
        query=RecordQuery,
        headers=(*CONDITIONS, PREFER_MINIMAL),
        body=schemas.Change,
        problems=(*OF_LIVES, InvalidGuid, NotFound, Expired, PreconditionRequired, *BAD_BODY, *OF_WRITES),
        required_scope=ACTIONS["PUT"].scope,
    )
    async def put(self, text: str) -> None:
        """Create the GUID, or merge the given members into its record.

        A new GUID requires a user. A GUID that expired by itself is renewed, for the default lifetime unless an expiry
        is given. A revoked GUID (its expiry was already in the past when it was written) is changed only if an expiry
        is given, otherwise 410. A PUT that changes nothing keeps the version. Preconditions are evaluated first.
        """
        self.read_view(RecordQuery)
        await self._finish_action(text)

    @operation(
        "patchGuid",
        "Change a GUID",
        _UPDATED,
        _MINIMAL,
        query=RecordQuery,
        headers=(*CONDITIONS, PREFER_MINIMAL),
        body=schemas.Patch,
        media_types=PATCHES,
        problems=(*OF_LIVES, InvalidGuid, NotFound, Expired, PreconditionRequired, *BAD_BODY, *OF_WRITES),
        required_scope=ACTIONS["PATCH"].scope,
    )
    async def patch(self, text: str) -> None:
        """Apply a JSON merge patch to the record of an existing GUID.

        `null` removes a member of the metadata, or all of it. An expired or revoked GUID is changed only by a patch
        that contains an expiry, otherwise 410. Preconditions are evaluated first.
        """
        self.read_view(RecordQuery)
        await self._finish_action(text)

    @operation(
        "deleteGuid",
        "Delete a GUID",
        ResponseSpec(204, "The record was deleted."),
        query=NoQuery,
        headers=CONDITIONS,
        problems=(InvalidGuid, InvalidRequest, NotFound, PreconditionRequired, *OF_WRITES),
        required_scope=ACTIONS["DELETE"].scope,
    )
    async def delete(self, text: str) -> None:
        """Delete the GUID, live or expired."""
        self.read_query(NoQuery)
        await self._finish_action(text)

    async def _finish_action(self, text: str) -> None:
        """Execute the action of the method in an admission slot, and finish the request."""
        request = self.guid_request(text)
        action = ACTIONS[request.method]
        self.send(await self.pipeline.execute(self.slot(), action, request, self.caller, self.session))
