"""The compared servers, which are all started together; one at a time is under load."""

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.contenders.asgi import GRANIAN
from bench.contenders.fixed import BODY, GUID
from bench.running import LOAD_CORE, SERVER_CORE, Running, free_port, program, redis_server, service
from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import SCOPES
from guidsvc.store import open_keys

_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log {log};
    sendfile on;
    open_file_cache max=100;
    keepalive_requests 1000000000;
    default_type application/json;
    {paths}
    server {{ listen 127.0.0.1:{port}; root {folder}/files; }}
}}
"""

INSTALL = {
    "nginx": "apt-get install nginx",
    "wrk": "apt-get install wrk",
    "starlette": "pip install -r requirements-bench.txt",
    "fastapi": "pip install -r requirements-bench.txt",
    "granian": "pip install -r requirements-bench.txt",
}
"""Commands that install missing programs and packages."""


Start = Callable[[], AbstractContextManager[Running]]


@contextmanager
def all_servers(mongo_url: str | None) -> Iterator[tuple[Mapping[str, Running], str, list[str]]]:
    """Run all servers inside the block; yield them by name, the URL of their Redis, and hints for missing ones.

    While one server is measured, the others have no load.
    """
    running: dict[str, Running] = {}
    left_out: list[str] = []
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(core=LOAD_CORE))
        url = f"redis://127.0.0.1:{redis.port}/0"
        starts = {**_contenders(url), **_services(url)}
        if mongo_url is not None:
            starts["guidsvc, MongoDB"] = lambda: _service("--store-url", mongo_url, "--cache-size", "0")
        else:
            left_out.append("MongoDB: GUIDSVC_BENCH_MONGO_URL names none (SecantusDB is too slow to mean anything)")
        for name, start in starts.items():
            missing = [need for need in INSTALL if need in name.split(", ") and not _is_installed(need)]
            if missing:
                left_out.append(f"{name}: {INSTALL[missing[0]]}")
            else:
                running[name] = stack.enter_context(start())
        yield running, url, left_out


def _contenders(redis_url: str) -> Mapping[str, Start]:
    log, granian, redis = "--access-log", ("--server", GRANIAN), ("--redis-url", redis_url)
    return {
        "limit": lambda: _module("limit"),
        "nginx": lambda: _nginx("off"),
        "nginx, logging": lambda: _nginx("{folder}/access.log"),
        "tornado": lambda: _module("tornado_fixed"),
        "tornado, logging": lambda: _module("tornado_fixed", log),
        "starlette": lambda: _module("starlette_fixed"),
        "starlette, logging": lambda: _module("starlette_fixed", log),
        "starlette, granian": lambda: _module("starlette_fixed", *granian),
        "starlette, granian, logging": lambda: _module("starlette_fixed", *granian, log),
        "fastapi": lambda: _module("fastapi_redis", *redis),
        "fastapi, granian": lambda: _module("fastapi_redis", *redis, *granian),
        "fastapi, validated": lambda: _module("fastapi_validated", *redis),
        "fastapi, validated, logging": lambda: _module("fastapi_validated", *redis, log),
        "fastapi, validated, granian": lambda: _module("fastapi_validated", *redis, *granian),
    }


def _services(redis_url: str) -> Mapping[str, Start]:
    return {
        "guidsvc": _service,
        "guidsvc, logging": lambda: _service("--access-log"),
        "guidsvc, key": _with_access_control,
        "guidsvc, Redis": lambda: _service("--cache-url", redis_url),
        "guidsvc, Redis without L1": lambda: _service("--cache-url", redis_url, "--cache-size", "0"),
        "guidsvc, no cache": lambda: _service("--cache-size", "0"),
        "guidsvc, Tornado": lambda: _service("--server", "tornado"),
    }


def _service(*options: str) -> AbstractContextManager[Running]:
    return service(*options, core=SERVER_CORE)


def _is_installed(name: str) -> bool:
    return shutil.which(name) is not None if name == "nginx" else find_spec(name) is not None


@contextmanager
def _module(name: str, *arguments: str) -> Iterator[Running]:
    with TemporaryDirectory() as folder:
        port = free_port()
        command = [sys.executable, "-m", f"bench.contenders.{name}", str(port), *arguments]
        with program(command, port, Path(folder), core=SERVER_CORE) as running:
            yield running


@contextmanager
def _with_access_control() -> Iterator[Running]:
    """Run guidsvc with access control, and a key whose rate limit is counted but never reached."""
    with service("--access", "keys", "--rate-limit", "10000000/second", core=SERVER_CORE) as running:
        asyncio.run(_create_key(running))
        yield running


async def _create_key(running: Running) -> None:
    key, text = keys.generate("bench", SCOPES[:3], time.time_ns() // 1_000_000)
    async with open_keys(f"sqlite:///{running.folder / 'guidsvc.db'}") as repository:
        await repository.swap(None, key)
    running.auth_headers = {"Authorization": f"Bearer {text}"}


@contextmanager
def _nginx(log: str) -> Iterator[Running]:
    with TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "files" / "guid").mkdir(parents=True)
        (folder / "files" / "guid" / GUID).write_bytes(BODY)
        folder.chmod(0o755)  # its worker may run as another user
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n    ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        (folder / "nginx.conf").write_text(
            _NGINX.format(folder=folder, port=port, paths=paths, log=log.format(folder=folder))
        )
        command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        with program(command, port, folder, core=SERVER_CORE) as running:
            yield running
