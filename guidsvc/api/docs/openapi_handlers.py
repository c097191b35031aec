"""The service tells of itself: to programs at `/openapi.json`, to people at `/docs`."""

import asyncio
from collections.abc import Sequence

from guidsvc.api.contract import schemas as answers
from guidsvc.api.contract.headers import ETAG, IF_NONE_MATCH_HERE, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.docs.static_pages import HTML, NOT_MODIFIED, OF_PAGES, LastingHandler, read
from guidsvc.api.routing import Route
from guidsvc.http.constants import JSON


class Document:
    """The OpenAPI document of a route table. It is made when it is first asked for, and once."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._content: bytes | None = None
        self._making = asyncio.Lock()

    async def read(self) -> bytes:
        """Return it as JSON. To make it takes a good part of a second, so that is done beside the loop."""
        if self._content is None:
            async with self._making:
                if self._content is None:
                    self._content = await asyncio.to_thread(self._render)
        return self._content

    def _render(self) -> bytes:
        from guidsvc.api.docs import openapi_document as openapi

        return openapi.render(self._routes)


class OpenApiHandler(LastingHandler):
    """The document."""

    def initialize(self, document: Document) -> None:
        self._document = document

    @operation(
        "getOpenapi",
        "This document",
        ResponseSpec(200, "The document.", answers.Document, headers=always(ETAG)),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Describe the service in OpenAPI 3.1."""
        self.reply_lasting(await self._document.read(), JSON)

    head = get


class DocsHandler(LastingHandler):
    """The page."""

    @operation(
        "getDocs",
        "This document, to read and to try out",
        ResponseSpec(200, "The page.", other={HTML: "The page."}, headers=OF_PAGES),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Answer with a page that shows the document, and sends what is tried out. It loads nothing from elsewhere."""
        self.reply_page(read("docs.html"))

    head = get
