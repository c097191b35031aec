"""Static files, from a fixed table, and pages, which may load nothing from other hosts."""

import hashlib
from functools import cache, lru_cache
from pathlib import Path

from guidsvc.api.base.handler import Handler
from guidsvc.api.base.near_paths import is_api_document
from guidsvc.api.contract.headers import (
    CONTENT_ENCODING,
    CONTENT_SECURITY,
    ETAG,
    IF_NONE_MATCH_HERE,
    REFERRER,
    VARY,
    always,
)
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.docs import compression
from guidsvc.api.html.page import HTML
from guidsvc.http.errors import NoSuchPath
from guidsvc.http.headers.negotiation import accepts_gzip

SCRIPT, STYLE, PLAIN = "text/javascript", "text/css", "text/plain"
FILES = {
    "docs.css": STYLE,
    "docs.js": SCRIPT,
    "page.css": STYLE,
    "swagger-ui.css": STYLE,
    "swagger-ui-bundle.js": SCRIPT,
    "swagger-ui-bundle.js.LICENSE.txt": PLAIN,
}
"""The files of the pages, with their media types. No other file is ever read."""
CACHE_ONE_DAY = "public, max-age=86400"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
OF_FILES = (*always(ETAG), VARY, CONTENT_ENCODING)
OF_PAGES = (*OF_FILES, *always(CONTENT_SECURITY, REFERRER))
NOT_MODIFIED = ResponseSpec(
    304,
    "The content has an entity tag of `If-None-Match`.",
    headers=(*always(ETAG), VARY),
    component="NotModified",
)


PAGE = ResponseSpec(200, "The page.", other={HTML: "The page."}, headers=OF_PAGES, component="Page")
FILE = ResponseSpec(
    200, "The file.", other=dict.fromkeys((SCRIPT, STYLE, PLAIN), "The file."), headers=OF_FILES, component="File"
)


@cache
def read(name: str) -> bytes:
    """Return the content of a static file."""
    static = Path(__file__).parent / "static"
    return (static / ("swagger-ui" if name.startswith("swagger-ui") else ".") / name).read_bytes()


@lru_cache(maxsize=128)
def etag_of(content: bytes) -> str:
    """Return the entity tag of content, computed once: for a large file, it takes a millisecond."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


class StaticHandler(Handler):
    """Base class of handlers whose content changes only with the version of the service."""

    label = "about"

    async def respond_static(self, content: bytes, media_type: str, cache_control: str = "no-cache") -> None:
        """Respond with content of this media type, compressed if the client accepts it, or with 304 if it has it."""
        self.set_header(
            "Content-Type", f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
        )
        self.set_header("Cache-Control", cache_control)
        etag, is_compressed = etag_of(content), False
        if len(content) >= compression.MIN_BYTES:
            self.vary("Accept-Encoding")
            is_compressed = accepts_gzip(self.request.headers.get("Accept-Encoding"))
        self.set_header("ETag", compression.etag_of_compressed(etag) if is_compressed else etag)
        if self._is_cached():
            self.respond(304)
            return
        if is_compressed:
            self.set_header("Content-Encoding", "gzip")
            content = await compression.compressed(etag, content)
        self.finish(content)

    def _is_cached(self) -> bool:
        """Whether the client has the representation that it would get."""
        tags = self.request.headers.get("If-None-Match", "")
        # Weak comparison; a hash is not part of other tags.
        return str(self._headers["ETag"]) in tags or tags.strip() == "*"

    async def respond_static_page(self, content: bytes, policy: str = POLICY) -> None:
        """Respond with a page that may run the scripts of the service."""
        self.set_header("Content-Security-Policy", policy)
        self.set_header("Referrer-Policy", "no-referrer")
        await self.respond_static(content, HTML)


class FileHandler(StaticHandler):
    """The files of the pages."""

    in_path = {"file": {"type": "string", "description": "A name.", "examples": ["page.css"]}}

    @operation(
        "getDocsFile",
        "Read a file of the documentation page",
        FILE,
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
        problems=(NoSuchPath,),
    )
    async def get(self, name: str) -> None:
        """Return a file of the documentation page."""
        if name not in FILES:
            near = " The OpenAPI document is at /openapi.json." if is_api_document(name) else ""
            raise NoSuchPath(f"The documentation has no such file.{near} GET /docs shows its page.")
        await self.respond_static(read(name), FILES[name], CACHE_ONE_DAY)

    head = get
