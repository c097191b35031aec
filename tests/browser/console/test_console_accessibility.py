"""Panels and dialogs pass the WCAG 2.2 AA rules of axe-core, and fit a width of 320 pixels."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.console.conftest import OpenConsole, call
from tests.support.axe import violations
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
NARROW = 320
PANELS = {
    "": ".plots",
    "guids": "tbody tr",
    f"guids/{GUID}": ".life",
    "guids/x": "main p",
    "expiring": ".bars, tbody tr",
    "live": "main .tools",
    "keys": "tbody tr",
    "about": ".keys",
}
"""The panels, each with an element that is present once the panel is drawn."""
DIALOGS = {
    ("guids", "New GUID"),
    ("guids", "Import"),
    ("guids", "Delete ..."),
    (f"guids/{GUID}", "Edit"),
    ("keys", "New key"),
    ("keys", "Rotate"),
    ("keys", "Revoke"),
    ("about", "Keyboard help"),
}
both_schemes = pytest.mark.parametrize("scheme", ["light", "dark"])
Show = Callable[..., Page]


@pytest.fixture
def admin(controlled: Service, create_key: Callable[..., str]) -> str:
    """The key of an admin, in a service that has records with long texts."""
    key = create_key()
    call(controlled, "PUT", f"/guid/{GUID}", {"user": "W" * 256, "metadata": {"m": "M" * 300}}, key=key)
    for number in range(3):
        call(controlled, "PUT", f"/guid/{number:032X}", {"user": "another", "expire": 0}, key=key)
    return key


@both_schemes
def test_panels_are_accessible(console: OpenConsole, controlled: Service, admin: str, scheme: str) -> None:
    page = console(controlled, scheme=scheme, key=admin)
    for panel, mark in PANELS.items():
        page.goto(f"{controlled.url}/console#/{panel}")
        page.locator(mark).first.wait_for()

        assert violations(page) == [], panel


@both_schemes
def test_dialogs_are_accessible(console: OpenConsole, controlled: Service, admin: str, scheme: str) -> None:
    page = console(controlled, scheme=scheme, key=admin)
    for panel, button in sorted(DIALOGS):
        page.goto(f"{controlled.url}/console#/{panel}")
        page.locator(PANELS[panel]).first.wait_for()
        if button.endswith("..."):
            page.get_by_label("Select this page").check()
        page.get_by_role("button", name=button).first.click()
        page.get_by_role("dialog").wait_for()

        assert violations(page) == [], button
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="hidden")


@both_schemes
def test_login_is_accessible(console: OpenConsole, controlled: Service, scheme: str) -> None:
    page = console(controlled, scheme=scheme)
    page.get_by_label("API key or token").wait_for()

    assert violations(page) == []


def test_panels_fit_a_narrow_screen(console: OpenConsole, controlled: Service, admin: str) -> None:
    page = console(controlled, width=NARROW, key=admin)
    for panel, mark in PANELS.items():
        page.goto(f"{controlled.url}/console#/{panel}")
        page.locator(mark).first.wait_for()

        assert page.evaluate("document.documentElement.scrollWidth") == NARROW, panel


def test_focus_moves_into_a_dialog_and_back(console: OpenConsole, running: Service) -> None:
    page = console(running, "guids")
    button = page.get_by_role("button", name="New GUID")
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")

    assert button.evaluate("element => element === document.activeElement")


def test_single_letter_shortcuts_can_be_disabled(console: OpenConsole, running: Service) -> None:
    page = console(running, "about")
    page.get_by_label("Single letters are shortcuts").uncheck()
    page.get_by_role("heading", name="About", level=1).focus()
    page.keyboard.press("?")
    page.keyboard.press("g")
    page.keyboard.press("g")

    assert page.get_by_role("dialog").count() == 0
    assert page.url.endswith("#/about")
