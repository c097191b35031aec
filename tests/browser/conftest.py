"""A real browser: Chromium, the one that is on PATH. What it complains of fails the test."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, sync_playwright

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


class Open(Protocol):
    """Opens a page of the service."""

    def __call__(self, path: str, scheme: str, width: int = 1280) -> Page:
        """Open a page, in a color scheme, in a window of this width."""


@pytest.fixture(scope="session")
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

    def show(path: str, scheme: str, width: int = 1280) -> Page:
        size: ViewportSize = {"width": width, "height": 800}
        page = browser.new_page(color_scheme="dark" if scheme == "dark" else "light", viewport=size)
        pages.append(page)
        page.on("console", lambda message: told.extend(_complaint(message, running.url + path)))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("requestfailed", lambda request: told.append(f"failed: {request.url}"))
        page.on("request", lambda request: told.extend(_foreign(request.url, running.url)))
        page.goto(running.url + path)
        return page

    yield show
    for page in pages:
        page.close()
    assert told == []


def _complaint(message: ConsoleMessage, url: str) -> list[str]:
    """Return what the browser logs, unless it is that the page at this URL is itself that of an error."""
    is_of_page = message.location["url"] == url and message.text.startswith("Failed to load resource")
    return [] if is_of_page else [f"{message.type}: {message.text}"]


def _foreign(url: str, own: str) -> list[str]:
    """Return the address that was asked for, if it is not one of the service."""
    return [] if url.startswith((own + "/", "data:")) else [url]
