"""/llms.txt matches the service: it lists the served operations, and its links have targets."""

import re

import pytest

from guidsvc.api.docs.llms_text import render
from tests.conftest import Serving
from tests.support.api_document import DOCUMENT, ROUTES

pytestmark = pytest.mark.both_servers


async def test_text_names_exactly_the_documented_operations(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.get("/llms.txt")

    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    listed_operations = re.findall(r"^- `([A-Z]+) (\S+)`: (.+)$", reply.body.decode(), re.MULTILINE)
    assert sorted(listed_operations) == sorted(
        (method.upper(), path, described["summary"])
        for path, item in DOCUMENT["paths"].items()
        for method, described in item.items()
    )
    assert len(reply.body) < 8 * 1024


async def test_every_link_leads_to_a_page(serving: Serving) -> None:
    async with serving() as client:
        text = (await client.get("/llms.txt")).body.decode()
        links = re.findall(r"\]\((\S+)\)", text)
        assert {"/openapi.json", "/docs", "/problems"} <= set(links)
        for link in links:
            assert (await client.get(link)).status == 200, link
        assert (await client.get("/")).json["links"]["llms"] == "/llms.txt"


async def test_command_in_the_text_creates_a_guid(serving: Serving) -> None:
    async with serving() as client:
        text = (await client.get("/llms.txt")).body.decode()
        method, path, body = re.findall(r"`([A-Z]+) (/guid)` with `(.+?)`", text)[0]
        assert (await client.ask(method, path, body=body.encode())).status == 201


async def test_links_begin_with_the_public_url(serving: Serving) -> None:
    async with serving(public_url="https://registry.example") as client:
        reply = await client.get("/llms.txt")
        revalidation = await client.get("/llms.txt", headers={"If-None-Match": reply.headers["ETag"]})

    assert b"(https://registry.example/openapi.json)" in reply.body
    assert revalidation.status == 304
    assert reply.body == render(ROUTES, "https://registry.example")
