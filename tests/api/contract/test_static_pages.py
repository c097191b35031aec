"""HTML pages of the documentation: their content security policy, their files, caching and compression."""

import asyncio
import gzip
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urljoin

import pytest

import guidsvc.api.docs
from guidsvc.api.contract import problems
from guidsvc.api.docs import compression
from guidsvc.api.docs import static_pages as pages
from guidsvc.api.docs.compression import MIN_BYTES
from guidsvc.api.docs.problem_catalog import EXPLANATIONS
from guidsvc.api.docs.static_pages import FILES, POLICY, read
from tests.conftest import Serving
from tests.support.assertions import assert_problem

pytestmark = pytest.mark.both_servers

VENDORED = Path(guidsvc.api.docs.__file__).parent / "static" / "swagger-ui"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/docs", "/problems", "/problems/expired"])
async def test_page_loads_nothing_from_other_origins(serving: Serving, path: str) -> None:
    async with serving() as client:
        page = await client.get(path, headers=BROWSER)
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert page.headers["Content-Security-Policy"] == POLICY
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert "unsafe" not in POLICY
        assert not re.search(rb"<script>|<style|style=|\son\w+=|https?:", page.body)


async def test_files_that_a_page_names_are_served(serving: Serving) -> None:
    async with serving() as client:
        for path in ("/docs", "/problems", "/problems/expired"):
            page = (await client.get(path, headers=BROWSER)).body.decode()
            for name in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page):
                assert (await client.get(urljoin(path, name))).status == 200, name


async def test_file_is_hashed_only_once(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed_sizes: list[int] = []

    def recorded_sha256(content: bytes) -> object:
        hashed_sizes.append(len(content))
        return hashlib.sha256(content)

    monkeypatch.setattr(pages, "hashlib", SimpleNamespace(sha256=recorded_sha256))
    pages.etag_of.cache_clear()
    paths = ["/docs", "/docs/swagger-ui-bundle.js", "/openapi.json", "/llms.txt", "/problems", "/problems/expired"]
    async with serving() as client:
        for path in paths * 3:
            page = await client.get(path)
            for tags in (page.headers["ETag"], f'"a", W/{page.headers["ETag"]}', "*"):
                assert (await client.get(path, headers={"If-None-Match": tags})).status == 304
            assert (await client.get(path, headers={"If-None-Match": '"a"'})).status == 200
    assert len(hashed_sizes) == len(paths)


async def test_page_files_are_cacheable(serving: Serving) -> None:
    async with serving() as client:
        for name, media_type in FILES.items():
            file = await client.get(f"/docs/{name}")
            assert (file.status, file.body) == (200, read(name))
            assert file.headers["Content-Type"] == f"{media_type}; charset=utf-8"
            assert file.headers["X-Content-Type-Options"] == "nosniff"
            assert file.headers["Cache-Control"] == "public, max-age=86400"
            revalidation = await client.get(f"/docs/{name}", headers={"If-None-Match": file.headers["ETag"]})
            assert (revalidation.status, revalidation.body) == (304, b"")


NOT_SERVED = [
    "",
    "x",
    "README.md",
    "..",
    "../docs.html",
    "..%2Fdocs.html",
    "%2e%2e%2fpages.py",
    "%00",
    "page.css/",
    "/page.css",
]


async def test_other_files_are_not_served(serving: Serving) -> None:
    async with serving() as client:
        for name in NOT_SERVED:
            assert_problem(await client.get(f"/docs/{name}"), 404, "not-found")


def test_third_party_files_are_unmodified() -> None:
    lines = [line.split() for line in (VENDORED / "SHA256SUMS").read_text().splitlines()]
    sums = {name: expected for expected, name in lines}

    assert {path.name for path in VENDORED.iterdir()} == {*sums, "SHA256SUMS", "README.md"}
    assert {"LICENSE", "NOTICE"} <= sums.keys()
    for name, expected in sums.items():
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == expected, name


# Compression


GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.mark.parametrize("headers", [{}, BROWSER], ids=["program", "browser"])
async def test_content_is_compressed_for_clients_that_accept_it(serving: Serving, headers: dict[str, str]) -> None:
    async with serving() as client:
        for path in ("/docs", "/openapi.json", "/problems/expired", *(f"/docs/{name}" for name in FILES)):
            plain = await client.get(path, headers=headers)
            packed = await client.get(path, headers=headers | GZIP)
            assert "Content-Encoding" not in plain.headers
            if len(plain.body) < MIN_BYTES:
                assert (packed.body, packed.headers["ETag"]) == (plain.body, plain.headers["ETag"])
                continue
            assert packed.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(packed.body) == plain.body
            assert len(packed.body) < len(plain.body)
            assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
            assert all("Accept-Encoding" in reply.headers["Vary"] for reply in (plain, packed))
            head = await client.ask("HEAD", path, headers=headers | GZIP)
            assert (head.body, head.headers["Content-Length"]) == (b"", str(len(packed.body)))
            assert packed.headers["ETag"] != plain.headers["ETag"]
            for accepted, tag, status in (
                (GZIP, packed.headers["ETag"], 304),
                ({}, plain.headers["ETag"], 304),
                (GZIP, plain.headers["ETag"], 200),
                ({}, packed.headers["ETag"], 200),
            ):
                revalidation = await client.get(path, headers=headers | accepted | {"If-None-Match": tag})
                assert revalidation.status == status, (path, accepted)
                assert "Accept-Encoding" in revalidation.headers["Vary"]


async def test_content_is_compressed_only_once(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def recorded_compress(content: bytes, *arguments: int, **options: int) -> bytes:
        sizes.append(len(content))
        return gzip.compress(content, *arguments, **options)

    monkeypatch.setattr(compression, "gzip", SimpleNamespace(compress=recorded_compress))
    monkeypatch.setattr(compression, "_compressed", {})
    async with serving() as client:
        for path in ("/docs/swagger-ui-bundle.js", "/openapi.json"):
            for together in (10, 1):
                replies = await asyncio.gather(*(client.get(path, headers=GZIP) for _ in range(together)))
                assert {reply.headers["Content-Encoding"] for reply in replies} == {"gzip"}
    assert len(sizes) == 2


async def test_records_are_never_compressed(serving: Serving) -> None:
    async with serving() as client:
        for number in range(40):
            await client.post("/guid", {"user": f"user {number}"})
        for headers in ({}, BROWSER, {"Accept": "application/x-ndjson"}):
            reply = await client.get("/guid", headers=headers | GZIP)
            assert len(reply.body) > MIN_BYTES
            assert "Content-Encoding" not in reply.headers


# Explanations of problems


async def test_every_problem_type_leads_to_its_explanation(serving: Serving) -> None:
    async with serving() as client:
        for kind in sorted({*problems.TABLE.values(), problems.INTERNAL}):
            reply = await client.get(f"/problems/{kind.code}")
            assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json"), kind.code
            explanation = reply.json
            assert (explanation["code"], explanation["status"], explanation["title"]) == (
                kind.code,
                kind.status,
                kind.title,
            )
            assert explanation["when"].endswith("."), kind.code
            assert explanation["remedy"].endswith("."), kind.code
            page = (await client.get(f"/problems/{kind.code}", headers=BROWSER)).body.decode()
            assert all(text in page for text in (kind.code, str(kind.status), kind.title, explanation["remedy"]))


async def test_problem_list_has_every_problem(serving: Serving) -> None:
    async with serving() as client:
        items = (await client.get("/problems")).json["problems"]
        page = (await client.get("/problems", headers=BROWSER)).body.decode()

        kinds = {*problems.TABLE.values(), problems.INTERNAL}
        assert sorted((item["code"], item["status"], item["title"]) for item in items) == sorted(kinds)
        for item in items:
            explanation = (await client.get(item["type"])).json
            assert (explanation["code"], explanation["when"]) == (item["code"], item["when"])
            assert f'<a href="problems/{item["code"]}">' in page
        codes = [item["code"] for item in sorted(items, key=lambda item: (item["status"], item["code"]))]
        assert [item["code"] for item in items] == codes
        assert re.findall(r'<a href="problems/([a-z-]+)">', page) == codes
    assert "$" not in page


@pytest.mark.parametrize("code", EXPLANATIONS)
def test_problem_example_has_the_common_shape(code: str) -> None:
    example = EXPLANATIONS[code].example

    assert list(example)[:6] == ["type", "title", "status", "code", "detail", "request_id"]
    assert (example["type"], example["code"]) == (f"/problems/{code}", code)
    assert EXPLANATIONS.keys() == {kind.code for kind in {*problems.TABLE.values(), problems.INTERNAL}}


async def test_problem_page_is_json_or_html_by_accept(serving: Serving) -> None:
    async with serving() as client:
        for accept, kind in {
            "*/*": "application/json",
            "application/json": "application/json",
            "text/html": "text/html; charset=utf-8",
            "image/png": "application/json",
        }.items():
            reply = await client.get("/problems/expired", headers={"Accept": accept})
            vary = "Accept" if len(reply.body) < MIN_BYTES else "Accept-Encoding, Accept"
            assert (reply.headers["Content-Type"], reply.headers["Vary"]) == (kind, vary)


async def test_unknown_problem_is_not_found(serving: Serving) -> None:
    async with serving() as client:
        for code in ("nothing", "EXPIRED", "%00", "<script>".replace("<", "%3C")):
            assert_problem(await client.get(f"/problems/{code}"), 404, "not-found")
