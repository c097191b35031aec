"""Starlette on uvicorn, and a fixed answer."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.contenders.fixed import BODY, HEADERS


async def fixed(request: Request) -> Response:  # noqa: ARG001  # what Starlette hands over
    """Answer each request with the same bytes."""
    return Response(BODY, headers=HEADERS)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/guid/{guid}", fixed)])
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning", loop="uvloop", http="httptools")
