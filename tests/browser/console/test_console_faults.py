"""Messages of the console while the service fails, and its recovery without a reload."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.console.conftest import OpenConsole, call, console_opener
from tests.support.backing_servers import Service, redis_server, service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
SOON_MS = 60_000
"""Time limit for a change to be displayed: the machine may be busy."""


def test_console_survives_a_restart_of_the_service(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, "guids")
    page.get_by_role("link", name=GUID).wait_for()
    running.stop()
    expect(page.locator(".service")).to_contain_text("out of reach", timeout=SOON_MS)
    page.get_by_label("State").select_option("all")
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer", timeout=SOON_MS)
    running.start()

    expect(page.get_by_role("alert")).to_have_count(0, timeout=SOON_MS)
    expect(page.locator(".service")).to_have_text("● ready", timeout=SOON_MS)


def test_console_opened_during_an_outage_recovers(console: OpenConsole, running: Service) -> None:
    page = console(running, "guids", prepare=lambda page: page.route("**/keys/self", lambda route: route.abort()))
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer", timeout=SOON_MS)
    page.unroute("**/keys/self")

    expect(page.get_by_role("heading", name="GUIDs")).to_be_visible(timeout=SOON_MS)


def test_dead_redis_is_reported(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with (
        redis_server(folder) as redis,
        service(tmp_path, "--cache-url", f"redis://127.0.0.1:{redis.port}/0") as running,
        console_opener(browser) as console,
    ):
        page = console(running)
        expect(page.locator(".service")).to_have_text("● ready", timeout=SOON_MS)
        redis.kill()
        expect(page.locator(".service")).to_contain_text("Redis is down", timeout=SOON_MS)
        redis.start()

        expect(page.locator(".service")).to_have_text("● ready", timeout=SOON_MS)


def test_rate_limit_is_explained_and_waited_for(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, "guids")
    page.get_by_role("link", name=GUID).wait_for()
    problem = {"title": "Too many requests", "status": 429, "code": "rate-limited", "detail": "Wait a second."}
    page.route(
        "**/guid?**", lambda route: route.fulfill(status=429, json=problem, headers={"Retry-After": "1"}), times=1
    )
    page.get_by_label("State").select_option("all")
    expect(page.get_by_role("alert")).to_contain_text("The console tries again by itself", timeout=SOON_MS)

    expect(page.get_by_role("alert")).to_have_count(0, timeout=SOON_MS)
    expect(page.get_by_role("link", name=GUID)).to_be_visible()


@pytest.mark.parametrize("place", ["guids/%", "guids/%FF", "guids/a%zz"])
def test_link_with_a_malformed_escape_is_explained(console: OpenConsole, running: Service, place: str) -> None:
    page = console(running, place)
    heading = page.get_by_role("heading", name=f"GUID {place.removeprefix('guids/')}", exact=True)
    expect(heading).to_be_visible()
    expect(page.get_by_text("This is not a GUID")).to_be_visible()
    page.get_by_role("link", name="About").click()
    expect(page.get_by_role("heading", name="About")).to_be_visible()
    page.goto(f"{running.url}/console#/{place}")

    expect(heading).to_be_visible()


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (200, ""), (400, "null"), (400, '"no"'), (400, "[]")])
def test_responses_of_a_proxy_are_explained(console: OpenConsole, running: Service, status: int, body: str) -> None:
    page = console(running, "about")
    page.get_by_role("heading", name="About").wait_for()
    page.route("**/guid?**", lambda route: route.fulfill(status=status, body=body))
    page.goto(f"{running.url}/console#/guids")

    text = f"The response has the status {status}, and is not one of guidsvc"
    expect(page.get_by_role("alert")).to_contain_text(text)


def test_selection_explains_a_response_of_a_proxy(console: OpenConsole, running: Service) -> None:
    for number in range(26):
        call(running, "PUT", f"/guid/{number:032X}", {"user": "a"})
    page = console(running, "guids?limit=25")
    page.get_by_label("Select this page").check()
    page.route("**/guid?**", lambda route: route.fulfill(body="<html>"))
    page.get_by_role("button", name="Select all 26").click()

    expect(page.get_by_role("status").filter(has_text="They could not be selected")).to_contain_text(
        "is not one of guidsvc"
    )


def test_stream_that_ends_within_a_line_is_resumed(console: OpenConsole, running: Service) -> None:
    page = console(running, "about")
    page.get_by_role("heading", name="About").wait_for()
    page.route("**/events?*follow=true*", lambda route: route.fulfill(body='{"type":"book'), times=1)
    page.goto(f"{running.url}/console#/live")
    expect(page.get_by_text("Following. 0 events")).to_be_visible(timeout=SOON_MS)
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})

    expect(page.get_by_text("Following. 1 event")).to_be_visible(timeout=SOON_MS)
