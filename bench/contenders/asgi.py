"""Run an ASGI application on uvicorn or granian, with uvloop, as one process."""

import argparse
import os

UVICORN, GRANIAN = SERVERS = ("uvicorn", "granian")


def serve(factory: str) -> None:
    """Serve the application that `module:function` returns, as the arguments of the command say; do not return."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--server", choices=SERVERS, default=UVICORN)
    parser.add_argument("--access-log", action="store_true")
    parser.add_argument("--redis-url", default="")
    options = parser.parse_args()
    os.environ["REDIS_URL"] = options.redis_url  # granian imports the application in a process of its own
    run = _run_granian if options.server == GRANIAN else _run_uvicorn
    run(factory, options.port, options.access_log)


def _run_uvicorn(factory: str, port: int, access_log: bool) -> None:  # noqa: FBT001
    import uvicorn

    level = "info" if access_log else "warning"
    uvicorn.run(
        factory, factory=True, port=port, access_log=access_log, log_level=level, loop="uvloop", http="httptools"
    )


def _run_granian(factory: str, port: int, access_log: bool) -> None:  # noqa: FBT001
    from granian import Granian
    from granian.constants import Interfaces, Loops

    Granian(
        factory, factory=True, address="127.0.0.1", port=port, interface=Interfaces.ASGI, loop=Loops.uvloop,
        workers=1, log_access=access_log, websockets=False,
    ).serve()  # fmt: skip
