"""The servers that are measured side by side, all started at once; under load is one at a time."""

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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
    access_log off;
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
}
"""How to install what is not there."""


@contextmanager
def all_servers(mongo_url: str | None) -> Iterator[tuple[Mapping[str, Running], list[str]]]:
    """Start them, inside; yield them by name, and what is left out, with the line that installs it."""
    running: dict[str, Running] = {}
    left_out: list[str] = []
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(core=LOAD_CORE))
        url = f"redis://127.0.0.1:{redis.port}/0"
        starts: dict[str, Callable[[], AbstractContextManager[Running]]] = {
            "limit": lambda: _module("limit"),
            "nginx": _nginx,
            "tornado": lambda: _module("tornado_fixed"),
            "starlette": lambda: _module("starlette_fixed"),
            "fastapi": lambda: _module("fastapi_redis", url),
            "ours": lambda: service(core=SERVER_CORE),
            "ours, logging": lambda: service("--access-log", core=SERVER_CORE),
            "ours, guarded": _guarded,
            "ours, Redis": lambda: service("--cache-url", url, core=SERVER_CORE),
            "ours, Redis without L1": lambda: service("--cache-url", url, "--cache-size", "0", core=SERVER_CORE),
            "ours, no cache": lambda: service("--cache-size", "0", core=SERVER_CORE),
            "ours, Tornado": lambda: service("--server", "tornado", core=SERVER_CORE),
        }
        if mongo_url is not None:
            starts["ours, MongoDB"] = lambda: service("--store-url", mongo_url, "--cache-size", "0", core=SERVER_CORE)
        else:
            left_out.append("MongoDB: GUIDSVC_BENCH_MONGO_URL names none (SecantusDB is too slow to mean anything)")
        for name, start in starts.items():
            if name in INSTALL and not _is_installed(name):
                left_out.append(f"{name}: {INSTALL[name]}")
            else:
                running[name] = stack.enter_context(start())
        yield running, left_out


def _is_installed(name: str) -> bool:
    if name == "nginx":
        return shutil.which("nginx") is not None
    try:
        __import__("uvicorn")
        __import__(name)
    except ImportError:
        return False
    return True


@contextmanager
def _module(name: str, *arguments: str) -> Iterator[Running]:
    with TemporaryDirectory() as folder:
        port = free_port()
        command = [sys.executable, "-m", f"bench.contenders.{name}", str(port), *arguments]
        with program(command, port, Path(folder), core=SERVER_CORE) as running:
            yield running


@contextmanager
def _guarded() -> Iterator[Running]:
    """Run guidsvc with access control, for one whose limit counts and is never reached."""
    with service("--access", "keys", "--rate-limit", "10000000/second", core=SERVER_CORE) as running:
        asyncio.run(_give_key(running))
        yield running


async def _give_key(running: Running) -> None:
    key, text = keys.generate("bench", SCOPES[:3], time.time_ns() // 1_000_000)
    async with open_keys(f"sqlite:///{running.folder / 'guidsvc.db'}") as kept:
        await kept.swap(None, key)
    running.shown = {"Authorization": f"Bearer {text}"}


@contextmanager
def _nginx() -> Iterator[Running]:
    with TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "files" / "guid").mkdir(parents=True)
        (folder / "files" / "guid" / GUID).write_bytes(BODY)
        folder.chmod(0o755)  # its worker may run as another user
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n    ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, paths=paths))
        command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        with program(command, port, folder, core=SERVER_CORE) as running:
            yield running
