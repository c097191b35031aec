"""The console is served as a whole, unless it is off: its page, and every file that one of its files loads."""

import gzip
import hashlib
import re

from guidsvc.api.console.console_handlers import CONSOLE_POLICY, FILES, STATIC, read
from tests.conftest import Serving

VENDORED = STATIC / "vendor"
MAX_COMPRESSED_BYTES = 96 * 1024
_LOADED = re.compile(r"""(?:from|src=|href=) ?"(?:\./|console/)([^"]+)""")


async def test_page_may_run_only_scripts_of_the_service(serving: Serving) -> None:
    async with serving(access="keys") as client:
        response = await client.get("/console")

    assert response.status == 200, "it shows nothing without a key"
    assert response.headers["Content-Security-Policy"] == CONSOLE_POLICY
    assert "unsafe" not in CONSOLE_POLICY
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Referrer-Policy"] == "no-referrer"


async def test_file_is_served_and_revalidated(serving: Serving) -> None:
    async with serving() as client:
        for name, media_type in FILES.items():
            response = await client.get(f"/console/{name}")
            revalidation = await client.get(f"/console/{name}", headers={"If-None-Match": response.headers["ETag"]})

            assert response.body == read(name), name
            assert response.headers["Content-Type"] == f"{media_type}; charset=utf-8", name
            assert response.headers["Cache-Control"] == "no-cache", "all files are of one version"
            assert revalidation.status == 304, name


async def test_other_files_are_not_served(serving: Serving) -> None:
    async with serving() as client:
        for name in ("x.js", "..%2Fconsole_handlers.py", "build.sh", "README.md", "console.html"):
            assert (await client.get(f"/console/{name}")).status == 404, name


async def test_console_is_refused_under_a_foreign_host_name(serving: Serving) -> None:
    async with serving() as client:
        for path in ("/console", "/console/app.js"):
            assert (await client.get(path, headers={"Host": "page.example"})).status == 421


async def test_console_can_be_switched_off(serving: Serving) -> None:
    async with serving(console=False) as client:
        index = await client.get("/")
        document = await client.get("/openapi.json")

        assert (await client.get("/console")).status == 404
        assert (await client.get("/console/app.js")).status == 404
    assert "console" not in index.json["links"]
    assert not [path for path in document.json["paths"] if path.startswith("/console")]


def test_every_file_that_is_loaded_is_served() -> None:
    sources = [read(name) for name in FILES if name not in {"preact.js", "uplot.js"}] + [read("console.html")]
    loaded = {name for source in sources for name in _LOADED.findall(source.decode())}

    assert loaded == set(FILES), "and nothing is served that is not loaded"


def test_console_is_small() -> None:
    assert sum(len(gzip.compress(read(name))) for name in FILES) < MAX_COMPRESSED_BYTES


def test_libraries_are_those_of_their_checksums() -> None:
    lines = [line.split() for line in (VENDORED / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}

    for name, digest in sums.items():
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest, name
    assert {path.name for path in VENDORED.iterdir()} == {*sums, "SHA256SUMS", "README.md", "build.sh"}
