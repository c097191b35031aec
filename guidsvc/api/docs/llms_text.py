"""The resource `/llms.txt`: a description of the service for language models (https://llmstxt.org)."""

from collections.abc import Iterator, Sequence

import guidsvc
from guidsvc.api.contract.headers import IF_NONE_MATCH_HERE
from guidsvc.api.contract.operation import operation, operation_of
from guidsvc.api.docs.static_pages import FILE, NOT_MODIFIED, PLAIN, StaticHandler
from guidsvc.api.routing import Route

_TEXT = """\
# guidsvc {version}

> A registry of GUIDs that expire, as a JSON API over HTTP. A GUID is 32 upper-case hexadecimal characters. Its record
> has a `user`, an `expire` (Unix time in seconds, sent as a string) and optional `metadata`.

- To create a GUID: `PUT /guid` with `{{"user": "Cylance, Inc."}}`. `ttl`, in seconds from now, may replace `expire`.
- With access control, send `Authorization: Bearer KEY`. `GET /keys/self` says whether that is so and what a key may do.
- Every error is JSON with a `code`, a `detail` and a `type`, the address of the page that explains it.
- Every GET also works as HEAD. OPTIONS lists the methods of a path.

## Documentation

- [OpenAPI 3.1]({base}/openapi.json): all operations, parameters, bodies and errors; for generators of clients
- [API documentation]({base}/docs): the same as a page for people
- [Errors]({base}/problems): all codes; `{base}/problems/CODE` says when one occurs and what to do

## Operations

{operations}
"""


def render(routes: Sequence[Route], base: str) -> bytes:
    """Render the text of a route table; `base` is the address of the service, or an empty string."""
    operations = "\n".join(_lines(routes))
    return _TEXT.format(version=guidsvc.__version__, base=base, operations=operations).encode()


def _lines(routes: Sequence[Route]) -> Iterator[str]:
    """Yield a line for each operation except HEAD and OPTIONS, which follow from the others."""
    for route in routes:
        for name in route.handler.methods():
            if name not in {"HEAD", "OPTIONS"}:
                yield f"- `{name} {route.path}`: {operation_of(getattr(route.handler, name.lower())).summary}"


class LlmsHandler(StaticHandler):
    """The description of the service for language models."""

    def initialize(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    @operation(
        "getLlms",
        "Describe the service to language models",
        FILE,
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Return a description of the service, its operations, and links to their documentation."""
        await self.respond_static(render(self._routes, self.context.public_url), PLAIN)

    head = get
