"""Fixtures that open the console in a real browser, and collect its errors."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.support.backing_servers import Service, pdapt, service

OpenConsole = Callable[..., Page]
Call = Callable[..., Any]
_VIOLATION = "addEventListener('securitypolicyviolation', event => console.error('policy: ' + event.violatedDirective))"


def call(at: Service, method: str, path: str, body: Any = None, key: str = "") -> Any:
    """Send a request as another client; return the JSON of the response."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"{at.url}{path}", data, headers, method=method), timeout=30) as response:
        text = response.read()
    return json.loads(text) if text else None


@contextmanager
def console_opener(browser: Browser) -> Iterator[OpenConsole]:
    """Open panels of the console within the block. A failed script or policy violation fails the test."""
    complaints: list[str] = []
    contexts = []

    def complain(message: ConsoleMessage) -> None:
        if not message.text.startswith("Failed to load resource"):  # an error response, which the page shows
            complaints.append(message.text)

    def open_console(
        at: Service,
        panel: str = "",
        *,
        scheme: str = "light",
        width: int = 1280,
        key: str = "",
        prepare: Callable[[Page], object] | None = None,
    ) -> Page:
        """Open a panel. `prepare` gets the page before it has sent a request."""
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        contexts.append(context)
        context.add_init_script(_VIOLATION)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error.stack)))
        if prepare:
            prepare(page)
        page.goto(f"{at.url}/console#/{panel}")
        if key:
            page.get_by_label("API key or token").fill(key)
            page.keyboard.press("Enter")
            page.get_by_role("banner").wait_for()
        return page

    yield open_console
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def console(browser: Browser) -> Iterator[OpenConsole]:
    with console_opener(browser) as opener:
        yield opener


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[Service]:
    """A service with access control."""
    with service(tmp_path, "--access", "keys") as started:
        yield started


@pytest.fixture
def make_key(tmp_path: Path) -> Callable[..., str]:
    """A function that creates a key in the store of the folder."""

    def make(scopes: str = "admin", owner: str = "alice") -> str:
        created = pdapt(tmp_path, *shlex.split(f"keys create --new-store --owner {owner} --scopes {scopes}"))
        assert created.returncode == 0, created.stderr
        return created.stdout.strip()

    return make


@pytest.fixture
def create_key(controlled: Service, make_key: Callable[..., str]) -> Callable[..., str]:  # it runs
    """A function that creates a key of the running service with access control."""
    return make_key


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element with this text or label has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        text = page.evaluate("""() => {
            const element = document.activeElement;
            return [element.getAttribute('aria-label'), element.labels?.[0]?.textContent, element.textContent]
                .filter(Boolean).map(each => each.trim()).join('\\n');
        }""")
        if name in text.splitlines():
            return
    raise AssertionError(f"Tab reaches no element named {name}")
