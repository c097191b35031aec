"""The service tells of itself: `/openapi.json`."""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import cached_property

from guidsvc.web import answers
from guidsvc.web.base import Handler
from guidsvc.web.described import Answer, operation
from guidsvc.web.headers import ETAG, IF_NONE_MATCH_HERE, always
from guidsvc.web.routes import Route


class Document:
    """The OpenAPI document of a route table. It is made when it is first asked for, and once."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def read(self) -> bytes:
        """Return it as JSON. To make it takes a good part of a second, so that is done beside the loop."""
        return await asyncio.to_thread(lambda: self._content)

    @cached_property
    def _content(self) -> bytes:
        from guidsvc.web import openapi

        return openapi.render(self._routes)


class LastingHandler(Handler):
    """What changes only with the service itself."""

    label = "about"

    def reply_lasting(self, content: bytes, cache: str) -> None:
        """End the request with this, or with 304 if the client has it; `cache` says for how long it may keep it."""
        self.set_header("Cache-Control", cache)
        self.set_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        if self.check_etag_header():
            self.reply(304)
        else:
            self.finish(content)


class OpenApiHandler(LastingHandler):
    """The document."""

    @operation(
        "getOpenapi",
        "This document",
        Answer(200, "The document.", answers.Document, headers=always(ETAG)),
        Answer(304, "It is one that `If-None-Match` names.", headers=always(ETAG)),
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Describe the service in OpenAPI 3.1."""
        document: Document = self.application.settings["document"]
        self.reply_lasting(await document.read(), "no-cache")

    head = get
