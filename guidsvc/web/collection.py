"""All GUIDs, `/guid`: lists of them, and where new ones are drawn."""

from collections.abc import AsyncGenerator
from http.client import CREATED, OK
from urllib.parse import urlencode

from pydantic_core import to_json

from guidsvc.bodies import Creation, ListQuery, RecordQuery, render_cursor
from guidsvc.idempotency import Answer, Draws, Idempotency
from guidsvc.service import GuidService
from guidsvc.web import body
from guidsvc.web.guids import RecordHandler
from guidsvc.web.negotiation import preferred

PREFER_TOTAL = "total-count"


class GuidsHandler(RecordHandler):
    """The collection."""

    def initialize(self, service: GuidService, idempotency: Idempotency) -> None:  # type: ignore[override]
        super().initialize(service)
        self._idempotency = idempotency

    async def get(self) -> None:
        """Answer with a page of the records that the query selects, or with all of them as a stream of lines."""
        query = self.read_view(ListQuery)
        self.set_header("Cache-Control", "private, no-cache")
        self.set_header("Vary", "Accept, Prefer")
        if preferred(self.request.headers.get("Accept"), (body.JSON, body.NDJSON)) == body.NDJSON:
            self.set_header("Content-Type", body.NDJSON)
            await self.stream(self._lines(query))
        else:
            await self._reply_page(query)

    head = get

    async def post(self) -> None:
        """Create a record under a GUID that the service draws."""
        self.read_view(RecordQuery)
        creation, conditions = self.read_body(Creation), self.read_conditions()

        async def create(draws: Draws | None) -> Answer:
            record = await self._service.create(creation, conditions, draw=draws and draws(0))
            return self.answer_of(CREATED, record)

        await self.send_once(self._idempotency, create)

    put = post

    async def _reply_page(self, query: ListQuery) -> None:
        page = await self._service.find(query)
        cursor = None if page.next is None else render_cursor(page.next)
        if cursor is not None:
            self.set_header("Link", f'<{self._url_of(cursor)}>; rel="next"')
        members = [
            b'"items":[%b]' % b",".join(map(self.rendered, page.records)),
            b'"next":%b' % to_json(cursor),
        ]
        if self.preferences().get("return") == PREFER_TOTAL:
            self.set_header("Preference-Applied", f"return={PREFER_TOTAL}")
            members.append(b'"total":%d' % await self._service.count(query))
        self.reply(OK, b"{%b}" % b",".join(members))

    async def _lines(self, query: ListQuery) -> AsyncGenerator[bytes]:
        async for records in self._service.walk(query):
            yield b"".join(self.rendered(record) + b"\n" for record in records)

    def _url_of(self, cursor: str) -> str:
        """Return the address of the same list from a cursor on."""
        given = {name: values[0] for name, values in self.request.query_arguments.items()}
        return f"{self.request.path}?{urlencode(given | {'cursor': cursor}, encoding='latin-1')}"
