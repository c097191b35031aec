"""Starlette with a fixed response."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.contenders.asgi import serve
from bench.contenders.fixed import BODY, HEADERS


async def fixed(request: Request) -> Response:  # noqa: ARG001  # what Starlette hands over
    """Send the same bytes in response to each request."""
    return Response(BODY, headers=HEADERS)


def make() -> Starlette:
    """Return the application."""
    return Starlette(routes=[Route("/guid/{guid}", fixed)])


if __name__ == "__main__":
    serve("bench.contenders.starlette_fixed:make")
