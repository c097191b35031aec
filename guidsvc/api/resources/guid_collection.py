"""The resource `/guid`: lists of records, and creation under generated GUIDs."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import (
    CONTENT_SECURITY,
    IDEMPOTENCY_KEY,
    LINK,
    PREFER_MINIMAL,
    PREFER_TOTAL,
    PREFERENCE_APPLIED,
    REFERRER,
    REPLAYED,
    VARY,
    always,
)
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution import list_response
from guidsvc.api.execution.guid_actions import execute_creation
from guidsvc.api.execution.list_response import ListRequest
from guidsvc.api.html.page import HTML
from guidsvc.api.html.record_pages import fitting, list_page
from guidsvc.api.parsing.query import query_with, url_of_next
from guidsvc.api.resources.guid import BAD_BODY, CONDITIONS, CREATED_NOW, OF_KEYS, OF_LIVES, OF_WRITES, RecordHandler
from guidsvc.domain.caller import READ, WRITE
from guidsvc.domain.commands import CreateCommand, ListQuery, RecordQuery
from guidsvc.domain.commands.list_parameters import Position, render_cursor
from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.http import constants
from guidsvc.http.headers.negotiation import preferred

_CREATED = CREATED_NOW._replace(headers=(*CREATED_NOW.headers, REPLAYED), component="Created")
_CREATION: dict[str, Any] = {
    "query": RecordQuery,
    "headers": (*CONDITIONS, PREFER_MINIMAL, IDEMPOTENCY_KEY),
    "body": schemas.Creation,
    "problems": (*OF_LIVES, *BAD_BODY, *OF_WRITES, *OF_KEYS),
    "required_scope": WRITE,
}


class GuidsHandler(RecordHandler):
    """The collection of all GUIDs."""

    is_creation = True

    @operation(
        "listGuids",
        "List GUIDs",
        ResponseSpec(
            200,
            "A page of matching records, or a stream of all.",
            schemas.Page,
            other={
                constants.NDJSON: "All matching records, one per line, as JSON.",
                HTML: "A page of matching records, as a page.",
            },
            headers=(LINK, PREFERENCE_APPLIED, *always(VARY), CONTENT_SECURITY, REFERRER),
        ),
        query=ListQuery,
        headers=(PREFER_TOTAL,),
        problems=(InvalidRequest,),
        required_scope=READ,
    )
    async def get(self) -> None:
        """Return a page of the records that match the query, or all of them as a stream of lines.

        Records are sorted by GUID, or with `sort=expire` by expiry, soonest first. Following `next` from page to page
        returns each record that exists throughout exactly once; in order of expiry, unless its expiry changes
        meanwhile. Only admins may name another owner.
        """
        query = self.read_view(ListQuery)
        list_response.check_query(query, self.session)
        self.set_header("Cache-Control", list_response.CACHE_CONTROL)
        self.vary(list_response.VARY)
        if self.prefers_page(constants.NDJSON):
            async with self.list_slot(self.service.list_slots(query)):
                html = await self._html_page(query)
                await self.confirm()
            self.respond_page(html)
        elif preferred(self.request.headers.get("Accept"), (constants.JSON, constants.NDJSON)) == constants.NDJSON:
            self._check_stream(query)
            self.set_header("Content-Type", constants.NDJSON)
            await self.stream(self._stream_lines(query))
        else:
            has_total = list_response.prefers_total(self.request.headers)
            async with self.list_slot(self.service.list_slots(query, has_total=has_total)):
                page = await list_response.find(self.service, self._list_request(), query)
                await self.confirm()  # last, as a page may wait for its turn and for the store
            self.send(page)

    head = get

    @operation("createGuid", "Create a GUID", _CREATED, **_CREATION)
    async def post(self) -> None:
        """Create a record under a GUID that the service generates."""
        self.read_view(RecordQuery)
        async with self.slot():
            command = await self.read_body(CreateCommand)
            asked = self.guid_request(), command, self.read_conditions()
            await self.confirm()  # last, as a large body waits for its turn
            await self.send_idempotent(partial(execute_creation, self.service, *asked))

    @operation("drawGuid", "Create a GUID, by PUT", _CREATED, **_CREATION)
    async def put(self) -> None:
        """Create a record under a GUID that the service generates, like POST."""
        await self.post()

    def _check_stream(self, query: ListQuery) -> None:
        """Reject a stream by expiry for one owner or user: each part of it would take as long as a count."""
        if query.sort == "expire" and self.service.is_restricted(query):
            detail = (
                "cannot be `expire` in a stream of the records of one owner or user; read pages (Accept: "
                "application/json), or leave `sort` out and sort the lines"
            )
            raise InvalidRequest(InvalidField("", detail, parameter="sort"))

    async def _html_page(self, query: ListQuery) -> bytes:
        page = await self.service.find(query, self.queue_name)
        records = fitting(list(zip(page.records, self.render_records(page.records), strict=True)))
        last = page.next if len(records) == len(page.records) else Position.after(records[-1][0], query.sort)
        url = None if last is None else url_of_next(self.request, render_cursor(last))
        return list_page(records, self.request.path, url, partial(query_with, self.request), state=query.state)

    def _list_request(self) -> ListRequest:
        request = self.request
        return ListRequest(request.path, request.query_arguments, request.headers, self.queue_name)

    async def _stream_lines(self, query: ListQuery) -> AsyncGenerator[bytes]:
        async for records in self.service.walk(query, self.queue_name):
            part = b"\n".join([*self.render_records(records), b""])
            del records  # a slow client must keep only the rendered part in memory
            handover = [part]
            del part
            yield handover.pop()
