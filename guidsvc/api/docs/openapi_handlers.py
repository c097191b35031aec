"""The API documentation: `/openapi.json` for programs, `/docs` for people."""

import asyncio
from collections.abc import Callable, Sequence

from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import IF_NONE_MATCH_HERE
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.docs.static_pages import NOT_MODIFIED, OF_FILES, PAGE, StaticHandler, read
from guidsvc.api.routing import Route
from guidsvc.http.constants import JSON
from guidsvc.runtime.background import in_thread


class Document:
    """The OpenAPI document of a route table, generated once, at the first request."""

    def __init__(self, routes: Sequence[Route], is_public: Callable[[str], bool]) -> None:
        self._routes = routes
        self._is_public = is_public
        self._content: bytes | None = None
        self._lock = asyncio.Lock()

    async def read(self) -> bytes:
        """Return the document as JSON. Generating it takes most of a second, so it runs in a thread."""
        if self._content is None:
            async with self._lock:
                if self._content is None:
                    self._content = await in_thread(self._render)
        return self._content

    def _render(self) -> bytes:
        from guidsvc.api.docs import openapi_document as openapi

        return openapi.render(self._routes, self._is_public)


class OpenApiHandler(StaticHandler):
    """The OpenAPI document."""

    def initialize(self, document: Document) -> None:
        self._document = document

    @operation(
        "getOpenapi",
        "Read the OpenAPI document",
        ResponseSpec(200, "The OpenAPI document.", schemas.Document, headers=OF_FILES),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Return the description of the whole interface in OpenAPI 3.1."""
        await self.respond_static(await self._document.read(), JSON)

    head = get


class DocsHandler(StaticHandler):
    """The documentation page."""

    @operation(
        "getDocs",
        "Show the OpenAPI document as a page",
        PAGE,
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Return a page that shows this document and can send requests. It loads nothing from other hosts."""
        await self.respond_static_page(read("docs.html"))

    head = get
