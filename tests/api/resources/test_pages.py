"""HTML pages that browsers get instead of JSON: their content, and which clients get them."""

import re
from collections.abc import AsyncIterator, Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest

import guidsvc
from guidsvc.api.fast_path.eligibility import DISQUALIFYING_HEADERS
from guidsvc.api.html.error_page import error_page
from guidsvc.api.html.page import MAY_PREFER_HTML, prefers_html
from guidsvc.api.html.record_pages import HIDDEN_BYTES, MAX_LIST_BYTES
from guidsvc.errors import InvalidField, InvalidRequest, NotFound, Unauthorized
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply
from tests.support.secured_service import SecuredService

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
HOSTILE = "<script>alert(1)</script> \"&amp;' \u202eabc"
CSP = "default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PROGRAMS = [
    None,
    "*/*",
    "application/json",
    "application/json, text/plain, */*",  # axios
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",  # java.net.HttpURLConnection: its weights are malformed
    "text/html;q=0.5, application/json",
    "text/html, application/json",
    "application/x-ndjson",
]
PEOPLE = [BROWSER["Accept"], "text/html", "TEXT/HTML", "text/*, */*;q=0.1", "text/html, application/json;q=0.9"]


class ParsedPage(HTMLParser):
    """A parsed page: its texts by element, and its links."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.links: list[str] = []
        self.names: set[str] = set()
        self._name = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._name = tag
        self.names.add(tag)
        self.links += [str(value) for name, value in attrs if name == "href"]
        assert all(not name.startswith("on") and name != "style" for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self._name, []).append(data.strip())


@pytest.fixture
async def client(serving: Serving, clock: FakeClock) -> AsyncIterator[Client]:
    async with serving(clock=clock) as client:
        yield client


async def page(client: Client, path: str, status: int = 200, headers: Mapping[str, str] | None = None) -> ParsedPage:
    """Return the page that a browser gets, which must be safe to display and must not be cached."""
    reply = await client.get(path, headers=BROWSER | dict(headers or {}))
    assert reply.status == status, reply.body
    assert_page(reply)
    return ParsedPage(reply.body)


def assert_page(reply: Reply) -> None:
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.headers["Content-Security-Policy"] == CSP
    assert (reply.headers["Referrer-Policy"], reply.headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert "Accept" in reply.headers["Vary"].split(", ")
    assert "ETag" not in reply.headers
    assert not re.search(rb"<script|<style|style=|\son\w+=", reply.body)


async def test_index_page_shows_version_links_and_a_command(client: Client) -> None:
    index = await page(client, "/")

    assert f"guidsvc {guidsvc.__version__}" in index.texts["h1"]
    (command,) = index.texts["code"]
    assert command == 'curl -X PUT -d \'{"user": "Cylance, Inc."}\' http://127.0.0.1/guid'
    links = (await client.get("/")).json["links"]
    assert {path.removeprefix("/") for path in links.values()} <= set(index.links)
    assert not set(links) & set(index.texts["a"]), "each link has a description"


async def test_every_link_of_a_page_leads_somewhere(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    for path in ("/", "/guid", PATH, "/guid/x", "/nothing", "/keys/x/rotation"):
        for link in ParsedPage((await client.get(path, headers=BROWSER)).body).links:
            if not link.startswith("data:"):
                assert (await client.get(urljoin(path, link))).status == 200, (path, link)


async def test_record_page_shows_the_members_of_the_json(client: Client) -> None:
    metadata = {"b": [1, 1.50, None], "a": HOSTILE}
    await client.put(PATH, {"user": HOSTILE, "expire": 4102444800, "metadata": metadata})
    for query in ("", "?view=full"):
        record_page, text = await page(client, PATH + query), (await client.get(PATH + query)).body.decode()
        members: dict[str, Any] = (await client.get(PATH + query)).json
        assert record_page.texts["dt"] == list(members)
        values = " ".join(record_page.texts["dd"] + record_page.texts["code"] + record_page.texts["bdi"])
        assert all(visible(value or "none") in values for name, value in members.items() if name != "metadata")
        assert visible(re.search(r'"metadata":(\{.*?\})[,}]', text)[1]) in values  # type: ignore[index]  # it is there
        assert "(2100-01-01 00:00:00 UTC)" in record_page.texts["time"]


def visible(text: str) -> str:
    """Return a text with right-to-left overrides escaped, as pages show them."""
    return text.replace("\u202e", "\\u202e")


async def test_pages_show_characters_that_hide_or_reorder_text(client: Client) -> None:
    hidden, harmless = "\u202e\u2066\u061c\u200f\x9b\u2028\ufeff", "Zürich \u05d0 \U0001f469\u200d\U0001f680"
    await client.put(PATH, {"user": harmless, "metadata": {hidden: hidden + harmless}})
    invalid = await client.put(PATH, {hidden: 1}, headers={"X-Request-Id": "a"})
    for text in (
        (await client.get(PATH, headers=BROWSER)).body.decode(),
        (await client.get("/guid", headers=BROWSER)).body.decode(),
        error_page(InvalidRequest(InvalidField(f"/{hidden}", f"is {hidden} {harmless}")), "id", "/", "/").decode(),
    ):
        assert not set(hidden) & set(text)
        assert harmless in text
        assert "\\u202e" in text
    assert hidden in invalid.json["errors"][0]["pointer"], "JSON contains the text unchanged"


async def test_record_page_marks_the_view_that_it_shows(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    for query, current in (("", "?"), ("?view=full", "?view=full")):
        text = (await client.get(PATH + query, headers=BROWSER)).body.decode()
        assert re.findall(r'href="(\?[^"]*)" aria-current="page"', text) == [current]
        assert {"?", "?view=full"} <= set(ParsedPage(text.encode()).links)


@pytest.mark.parametrize("name", ["user", "metadata"])
async def test_pages_escape_the_text_of_clients(client: Client, name: str) -> None:
    await client.put(PATH, {"user": USER, name: HOSTILE if name == "user" else {HOSTILE: HOSTILE}})
    for path in (PATH, "/guid", "/guid?%3Cscript%3E=1", "/guid/%3Cscript%3E"):
        reply = await client.get(path, headers=BROWSER)
        assert_page(reply)
        assert "script" not in ParsedPage(reply.body).names
        assert b"script" in reply.body or path == "/guid/%3Cscript%3E"


async def test_list_page_shows_each_record_and_leads_to_the_next(client: Client) -> None:
    guids = sorted([(await client.post("/guid", {"user": f"user {number}"})).json["guid"] for number in range(5)])
    listed_guids: list[str] = []
    path = "/guid?limit=2&state=all"
    while path:
        list_page = await page(client, path)
        listed_guids += [link.removeprefix("guid/") for link in list_page.links if link.startswith("guid/")]
        path = next((f"/{link}" for link in list_page.links if "cursor=" in link), "")
    assert listed_guids == guids
    assert "No GUID matches." in (await page(client, "/guid?user=nobody")).texts["p"]


@pytest.mark.parametrize("state", ["", "live", "expired", "all"])
async def test_list_page_marks_the_state_that_it_shows(client: Client, state: str) -> None:
    text = (await client.get(f"/guid?state={state}" if state else "/guid", headers=BROWSER)).body.decode()

    assert re.findall(r'aria-current="page">(\w+)<', text) == [state or "live"]


async def test_links_to_forms_of_a_page_keep_its_query(client: Client) -> None:
    """Each link changes only its own parameter; a link to another state leads to its first page."""
    await client.put(PATH, {"user": 'a&"<é'})
    user = "a%26%22%3C%C3%A9"
    first = f"/guid?view=full&user={user}&limit=1&expires_after=-1h"
    await client.put(f"/guid/{'F' * 32}", {"user": 'a&"<é'})
    (next_path,) = (f"/{link}" for link in (await page(client, first)).links if "cursor=" in link)
    for path in (first, next_path):
        links = (await page(client, path)).links
        for state in ("live", "expired", "all"):
            assert f"?view=full&user={user}&limit=1&expires_after=-1h&state={state}" in links
    assert "?state=all&sort=expire" in (await page(client, "/guid?state=live&sort=expire")).links

    links = (await page(client, f"{PATH}?valid_for=1&view=full")).links
    assert {"?valid_for=1", "?valid_for=1&view=full"} <= set(links)


async def test_cells_of_a_list_have_names_for_narrow_screens(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    text = (await client.get("/guid", headers=BROWSER)).body.decode()

    columns = re.findall(r'role="columnheader">(\w+)<', text)
    assert ["guid", *re.findall(r'<td role="cell" data-name="(\w+)">', text)] == columns


@pytest.mark.parametrize(
    ("number", "text"),
    [(80, '"&' * 3000), (90, '"' * 1900 + "\U0001f600" * 3000), (120, ""), (30, "\u202e" * 5_000)],
)
async def test_list_page_has_a_bound_and_misses_no_record(client: Client, number: int, text: str) -> None:
    body = {"user": USER, "metadata": {"m": text}}
    guids = sorted([(await client.post("/guid", body)).json["guid"] for _ in range(number)])
    listed_guids: list[str] = []
    path = "/guid?limit=500"
    while path:
        reply = await client.get(path, headers=BROWSER)
        links = ParsedPage(reply.body).links
        page_guids = [link.removeprefix("guid/") for link in links if link.startswith("guid/")]
        assert len(reply.body) < 1_200_000
        assert len(page_guids) <= 100
        assert reply.body.count(rb"\u202e") <= MAX_LIST_BYTES // HIDDEN_BYTES, "they take long to render"
        listed_guids += page_guids
        path = next((f"/{link}" for link in links if "cursor=" in link), "")
    assert listed_guids == guids


@pytest.mark.parametrize("path", ["/", "/guid", PATH, "/guid/x", "/nothing", "/problems/expired"])
async def test_programs_get_json_and_browsers_get_pages(client: Client, path: str) -> None:
    await client.put(PATH, {"user": USER})
    json_reply = await client.get(path)
    for accept in PROGRAMS:
        reply = await client.get(path, headers={} if accept is None else {"Accept": accept})
        if (path, accept) != ("/guid", "application/x-ndjson"):
            types = {"application/json", "application/problem+json"}
            assert reply.headers["Content-Type"] in types, accept
        if not path.startswith("/guid/x") and path != "/nothing" and accept != "application/x-ndjson":
            assert reply.body == json_reply.body, accept
    for accept in PEOPLE:
        reply = await client.get(path, headers={"Accept": accept})
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8", accept
        head = await client.ask("HEAD", path, headers={"Accept": accept})
        assert (head.status, head.body) == (reply.status, b"")
        assert head.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("accept", [each for each in PROGRAMS + PEOPLE if each])
def test_only_clients_that_may_want_a_page_leave_the_fast_path(accept: str) -> None:
    assert b"accept" in DISQUALIFYING_HEADERS
    assert MAY_PREFER_HTML.search(accept.encode()) or not prefers_html(accept)
    if accept in {"*/*", "application/json", "application/json, text/plain, */*"}:
        assert not MAY_PREFER_HTML.search(accept.encode())


@pytest.mark.parametrize("path", ["/", PATH, "/guid/x", "/nothing", "/problems/expired"])
async def test_client_that_names_no_page_gets_none(client: Client, path: str) -> None:
    await client.put(PATH, {"user": USER})
    for accept in ("*/*, application/json;q=0.5", "application/json;q=0, */*"):
        reply = await client.get(path, headers={"Accept": accept})
        assert reply.headers["Content-Type"] in {"application/json", "application/problem+json"}, accept


async def test_error_page_does_not_grow_with_its_path(client: Client) -> None:
    short, long = [await client.get("/" * slashes, headers=BROWSER) for slashes in (20, 10_000)]
    assert (short.status, long.status) == (404, 404)
    assert len(long.body) < len(short.body) + 20_000


async def test_json_is_the_same_bytes_before_and_after_a_page(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    before = await client.get(PATH)
    await page(client, PATH)
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "*/*"}):
        after = await client.get(PATH, headers=headers)
        assert after.body == before.body
        varying = {"Date", "X-Request-Id"}
        assert [header for header in after.headers.get_all() if header[0] not in varying] == [
            header for header in before.headers.get_all() if header[0] not in varying
        ]


async def test_tag_of_the_json_does_not_match_the_page(client: Client) -> None:
    tag = (await client.put(PATH, {"user": USER})).headers["ETag"]

    assert (await client.get(PATH, headers={"If-None-Match": tag})).status == 304
    await page(client, PATH, headers={"If-None-Match": tag})
    assert (await client.get(PATH, headers=BROWSER | {"If-None-Match": "*"})).status == 304
    failed = await client.get(PATH, headers=BROWSER | {"If-Match": '"1"'})
    assert (failed.status, failed.headers["ETag"]) == (412, tag), "the tag of the record"
    assert "precondition-failed" in ParsedPage(failed.body).texts["code"]


async def test_page_of_a_failed_precondition_shows_no_record(client: Client) -> None:
    """Large metadata would take long to render; the record has a page of its own."""
    metadata = {"a": [[[[[number]]]] for number in range(1_100)]}
    assert (await client.ask("PUT", PATH, json={"user": USER, "metadata": metadata})).status == 201
    failed = await client.ask("GET", PATH, headers={**BROWSER, "If-Match": '"1"'})

    assert failed.status == 412
    assert len(failed.body) < 2_000


async def test_errors_are_shown_in_words(client: Client) -> None:
    for path, status, message in (
        ("/nothing", 404, "Nothing is served at this path."),
        (PATH, 404, f"No GUID {GUID} is registered."),
        ("/guid/x", 400, "32 upper-case hexadecimal characters"),
        (f"{PATH}?colour=red", 400, "is not a known query parameter; remove it"),
    ):
        error = await page(client, path, status)
        assert any(message in text for texts in error.texts.values() for text in texts), (path, error.texts)
    await client.put(PATH, {"user": USER, "expire": 0})
    assert "expired" in (await page(client, PATH, 410)).texts["code"]


@pytest.mark.parametrize("error", [NotFound("<script>"), Unauthorized("<script>", invalid=True)])
def test_error_page_escapes_every_text(error: Exception) -> None:
    parsed = ParsedPage(error_page(error, "<script>", "/guid/<script>", "http://a/guid/<script>'"))

    assert "script" not in parsed.names
    assert "<script>" in " ".join(parsed.texts["p"])


async def test_errors_of_writes_are_always_problems(client: Client) -> None:
    reply = await client.put(PATH, {"user": " "}, headers=BROWSER)

    assert (reply.status, reply.headers["Content-Type"]) == (400, "application/problem+json")


async def test_browser_without_a_key_is_told_how_to_use_one(serving: Serving, clock: FakeClock, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    async with serving(clock=clock, store_url=url, access="keys") as client:
        for path in (PATH, "/guid", "/keys", "/metrics"):
            error = await page(client, path, 401)
            assert any("a browser sends none" in text for text in error.texts["p"])
            command = f"curl -H 'Authorization: Bearer gs_...' http://127.0.0.1{path}"
            assert command in error.texts["code"]
            assert any("choose Authorize" in text for texts in error.texts.values() for text in texts)
        assert "Bearer gs_..." in (await page(client, "/")).texts["code"][0]
        credential = await SecuredService(client, url, clock).create_key("alice")
        await client.put(PATH, {"user": "secret"}, headers=credential.headers)
        assert "secret" in (await page(client, PATH, headers=credential.headers)).texts["bdi"]
        other = await SecuredService(client, url, clock).create_key("bob")
        assert "not-found" in (await page(client, PATH, 404, headers=other.headers)).texts["code"]
        assert "No GUID matches." in (await page(client, "/guid", headers=other.headers)).texts["p"]
