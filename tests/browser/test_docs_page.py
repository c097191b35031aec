"""The pages in a real browser: Chromium, the one that is on PATH."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.backing_servers import Service, service

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.timeout(180)  # a browser takes its time to start
Open = Callable[[str, str], Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    assert binary, f"none of {', '.join(NAMES)} is on PATH"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as started:
        yield started


@pytest.fixture
def told() -> list[str]:
    """What the browser complained of, and what it asked of others; in the end there must be nothing."""
    return []


@pytest.fixture
def show(browser: Browser, running: Service, told: list[str]) -> Iterator[Open]:
    """Open a page of the service, in light or in dark."""
    pages = []

    def show(path: str, scheme: str) -> Page:
        page = browser.new_page(color_scheme="dark" if scheme == "dark" else "light")
        pages.append(page)
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("requestfailed", lambda request: told.append(f"failed: {request.url}"))
        page.on("request", lambda request: told.extend(_foreign(request.url, running.url)))
        page.goto(running.url + path)
        return page

    yield show
    for page in pages:
        page.close()
    assert told == []


def _foreign(url: str, own: str) -> list[str]:
    """Return the address that was asked for, if it is not one of the service."""
    return [] if url.startswith((own + "/", "data:")) else [url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_interface_is_shown_and_can_be_tried_out(show: Open, scheme: str) -> None:
    page = show("/docs", scheme)

    for operation in ("about-getVersion", "guids-putGuid", "health-getLivez"):
        block = page.locator(f"#operations-{operation}")
        block.locator(".opblock-summary-control").click()
        block.locator(".try-out__btn").click()
        block.locator(".execute").click()
        status = block.locator(".live-responses-table tbody .response-col_status").first
        status.wait_for()
        assert status.inner_text().split()[0] in {"200", "201"}


@pytest.mark.parametrize("path", ["/docs", "/problems/expired"])
def test_colour_scheme_follows_the_system(show: Open, path: str) -> None:
    def brightness(scheme: str) -> tuple[int, int]:
        page = show(path, scheme)
        heading = page.locator("h1, .title").first
        heading.wait_for()
        ink = heading.evaluate("node => getComputedStyle(node).color")
        paper = page.locator("body").evaluate("node => getComputedStyle(node).backgroundColor")
        return _sum(ink), _sum(paper)

    light, dark = brightness("light"), brightness("dark")
    assert light[0] + 300 < light[1]
    assert dark[1] + 300 < dark[0]


def test_page_follows_a_change_of_the_system_colour_scheme(show: Open) -> None:
    page = show("/docs", "light")
    page.emulate_media(color_scheme="dark")
    page.locator("html.dark-mode").wait_for()
    page.emulate_media(color_scheme="light")
    page.locator("html:not(.dark-mode)").wait_for()


def test_problem_page_leads_to_the_interface(show: Open) -> None:
    page = show("/problems/not-found", "light")
    page.get_by_role("link", name="API documentation").click()
    page.locator(".opblock").first.wait_for()


def _sum(color: str) -> int:
    red, green, blue = color.removeprefix("rgb(").removesuffix(")").split(",")
    return int(red) + int(green) + int(blue)
