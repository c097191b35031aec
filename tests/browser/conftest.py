"""Fixtures with a real browser: the Chromium on PATH. A warning or error of the browser fails the test."""

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


class PageOpener(Protocol):
    """A function that opens a page of the service."""

    def __call__(self, path: str, scheme: str, width: int = 1280) -> Page:
        """Open a page with a color scheme, in a window of this width."""


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
def complaints() -> list[str]:
    """Messages of the browser, and its requests to other hosts. At the end of the test the list must be empty."""
    return []


@pytest.fixture
def show(browser: Browser, running: Service, complaints: list[str]) -> Iterator[PageOpener]:
    """A function that opens a page of the service, with the light or the dark color scheme."""
    pages = []

    def show(path: str, scheme: str, width: int = 1280) -> Page:
        size: ViewportSize = {"width": width, "height": 800}
        page = browser.new_page(color_scheme="dark" if scheme == "dark" else "light", viewport=size)
        pages.append(page)
        page.on("console", lambda message: complaints.extend(_complaints(message, running.url + path)))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: complaints.extend(_foreign_urls(request.url, running.url)))
        page.goto(running.url + path)
        return page

    yield show
    for page in pages:
        page.close()
    assert complaints == []


def _complaints(message: ConsoleMessage, url: str) -> list[str]:
    """Return a message of the browser, unless it says that the page at this URL has an error status."""
    is_of_page = message.location["url"] == url and message.text.startswith("Failed to load resource")
    return [] if is_of_page else [f"{message.type}: {message.text}"]


def _foreign_urls(url: str, own: str) -> list[str]:
    """Return the requested URL if it is not one of the service."""
    return [] if url.startswith((own + "/", "data:")) else [url]
