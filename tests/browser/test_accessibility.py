"""The pages pass the WCAG 2.2 AA rules of axe-core, in both color schemes and on the screen of a phone."""

import json
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Locator, Page

from tests.browser.conftest import PageOpener
from tests.support.axe import violations
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(180)  # a browser starts slowly

PAGES = ["/", "/guid", "/guid?limit=1", f"/guid/{GUID}", f"/guid/{GUID}?view=full", "/guid/x", "/problems"]
PAGES += ["/problems/expired"]
PHONE = 390

both_schemes = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(autouse=True)
def records(running: Service) -> None:
    """Create a record with long texts, and enough others to make a list scroll."""
    for guid, user in ((GUID, "W" * 256), *((f"{number:032X}", "another") for number in range(12))):
        body = json.dumps({"user": user, "metadata": {"m": "M" * 300, "n": [1, None]}}).encode()
        urlopen(Request(f"{running.url}/guid/{guid}", body, method="PUT"), timeout=30).close()


def try_out(page: Page, name: str) -> Locator:
    """Open an operation of the interface, and send its example."""
    page.locator(".opblock").first.wait_for()
    block = page.locator(f"#operations-{name}")
    block.locator(".opblock-summary-control").click()
    block.locator(".try-out__btn").click()
    block.locator(".execute").click()
    block.locator(".live-responses-table .response-col_status").first.wait_for()
    return block


@both_schemes
def test_interface_is_accessible_with_open_operations(show: PageOpener, scheme: str) -> None:
    page = show("/docs", scheme)
    for name in ("guids-listGuids", "guids-putGuid"):
        try_out(page, name)

    assert violations(page) == []


@both_schemes
@pytest.mark.parametrize("path", PAGES)
def test_page_is_accessible(show: PageOpener, path: str, scheme: str) -> None:
    assert violations(show(path, scheme)) == []


def test_interface_fits_the_screen_of_a_phone(show: PageOpener) -> None:
    page = show("/docs", "light", PHONE)
    for name in ("guids-listGuids", "guids-putGuid"):
        block = try_out(page, name)
        for cell in block.locator(".responses-table .response-col_description").all():
            box = cell.bounding_box()
            assert box is not None
            assert box["width"] > PHONE / 2, "readable"

    assert page.evaluate("document.documentElement.scrollWidth") == PHONE


@pytest.mark.parametrize("path", PAGES)
def test_page_fits_the_screen_of_a_phone(show: PageOpener, path: str) -> None:
    assert show(path, "light", PHONE).evaluate("document.documentElement.scrollWidth") == PHONE


def test_operation_opens_by_keyboard_and_changes_the_address(show: PageOpener) -> None:
    page = show("/docs", "light")
    control = page.locator("#operations-guids-putGuid .opblock-summary-control")
    control.focus()
    page.keyboard.press("Enter")
    page.locator("#operations-guids-putGuid .opblock-body").wait_for()

    assert page.url.endswith("#/guids/putGuid")
