"""Filters load the chosen value: not each value that the arrow keys pass, and always the last one."""

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.console.conftest import OpenConsole, call
from tests.browser.console.held_requests import HeldRequests
from tests.support.backing_servers import Service

pytestmark = pytest.mark.timeout(240)


def listen(page: Page, path: str, name: str) -> list[str]:
    """Return a list to which each later request of the page to the path adds its value of a parameter."""
    values: list[str] = []

    def append(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.path == path:
            values.extend(parse_qs(parts.query).get(name, [""]))

    page.on("request", append)
    return values


def press_without_pause(page: Page, label: str, keys: list[str]) -> None:
    """Press keys in a field. For the page no time passes between them, however busy the machine is."""
    page.clock.install()
    page.clock.pause_at("2099-01-01")
    page.get_by_label(label).focus()
    for key in keys:
        page.keyboard.press(key)
    page.clock.resume()


@pytest.fixture
def with_expired(running: Service) -> Service:
    """A service with a live GUID and an expired one."""
    call(running, "PUT", f"/guid/{0:032X}", {"user": "live"})
    call(running, "PUT", f"/guid/{1:032X}", {"user": "expired", "expire": "0"})
    return running


def test_arrow_keys_load_only_the_value_where_they_stop(console: OpenConsole, with_expired: Service) -> None:
    page = console(with_expired, "guids")
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()
    states = listen(page, "/guid", "state")
    press_without_pause(page, "State", ["ArrowDown", "ArrowDown"])
    expect(page.get_by_text("2 GUIDs", exact=True)).to_be_visible()
    expect(page.get_by_label("State")).to_be_focused()

    assert states == ["all"]


def test_arrow_keys_back_to_the_start_load_nothing(console: OpenConsole, with_expired: Service) -> None:
    page = console(with_expired, "guids")
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()
    states = listen(page, "/guid", "state")
    press_without_pause(page, "State", ["ArrowDown", "ArrowUp", "Tab", "ArrowDown", "Tab"])
    page.wait_for_url("**within=1h")
    expect(page.get_by_text("No GUID matches.")).to_be_visible()

    assert states == ["live"], "only the filter that changed loads the list"


def test_cleared_filter_shows_what_is_loaded(console: OpenConsole, with_expired: Service) -> None:
    page = console(with_expired, "guids")
    page.get_by_label("State").select_option("all")
    expect(page.get_by_text("2 GUIDs", exact=True)).to_be_visible()
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()

    expect(page.get_by_label("State")).to_have_value("live")


@pytest.mark.parametrize("key", ["Enter", "Tab"])
def test_choice_loads_on_enter_and_on_leaving_the_field(console: OpenConsole, with_expired: Service, key: str) -> None:
    page = console(with_expired, "guids")
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()
    page.clock.install()
    page.clock.pause_at("2099-01-01")  # no pause after a key is ever long enough
    page.get_by_label("State").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press(key)

    page.wait_for_url("**state=expired")


def test_last_choice_wins_over_a_late_response(console: OpenConsole, with_expired: Service) -> None:
    held_requests = HeldRequests()
    page = console(with_expired, "guids")
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()
    page.route("**/guid?**state=all**", held_requests.hold, times=1)
    page.get_by_label("State").select_option("all")
    page.wait_for_url("**state=all")
    page.get_by_label("State").select_option("expired")
    expect(page.get_by_role("row", name="expired")).to_be_visible()
    held_requests.first(page).fulfill(json={"items": [], "next": None, "total": 0})
    page.evaluate("fetch('livez').then(response => response.text())")

    expect(page.get_by_role("row", name="expired")).to_be_visible()


def test_filters_of_keys_and_live_keep_the_focus(
    console: OpenConsole, controlled: Service, create_key: Callable[..., str]
) -> None:
    page = console(controlled, "keys", key=create_key())
    expect(page.get_by_role("table")).to_be_visible()
    states = listen(page, "/keys", "state")
    press_without_pause(page, "State", ["ArrowDown"] * 3)
    page.wait_for_url("**state=revoked")
    expect(page.get_by_text("No key matches.")).to_be_visible()
    expect(page.get_by_label("State")).to_be_focused()
    assert states == ["revoked"]
    page.goto(f"{controlled.url}/console#/live")
    page.get_by_label("What").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_url("**type=guid.created")

    expect(page.get_by_label("What")).to_be_focused()


def test_heading_sorts_the_list(console: OpenConsole, running: Service) -> None:
    for number in range(2):
        call(running, "PUT", f"/guid/{number:032X}", {"user": "a", "expire": 4102444800 - number})
    page = console(running, "guids")
    guids = page.locator("tbody th")
    expect(guids).to_have_text([f"{0:032X}", f"{1:032X}"])
    expect(page.get_by_role("columnheader", name="GUID")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("columnheader", name="Expires").get_by_role("button").press("Enter")
    expect(guids).to_have_text([f"{1:032X}", f"{0:032X}"])
    expect(page.get_by_role("columnheader", name="Expires")).to_have_attribute("aria-sort", "ascending")
    expect(page.get_by_role("columnheader", name="GUID")).not_to_have_attribute("aria-sort", "ascending")

    expect(page.get_by_role("columnheader", name="Expires").get_by_role("button")).to_be_focused()


@pytest.fixture
def with_sixty(running: Service) -> Service:
    """A service with 60 GUIDs of one user, and one of another."""
    operations = [{"guid": f"{number:032X}", "user": "a"} for number in range(60)]
    call(running, "POST", "/guid:batch", {"operations": [*operations, {"guid": f"{60:032X}", "user": "b"}]})
    return running


@pytest.mark.parametrize(("size", "shown"), [("25", 25), ("100", 61)])
def test_page_size_can_be_chosen(console: OpenConsole, with_sixty: Service, size: str, shown: int) -> None:
    page = console(with_sixty, "guids")
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_label("GUIDs per page").select_option(size)
    expect(page.locator("tbody tr")).to_have_count(shown)
    page.reload()

    expect(page.locator("tbody tr")).to_have_count(shown)


def test_all_matching_guids_can_be_selected(console: OpenConsole, with_sixty: Service) -> None:
    page = console(with_sixty, "guids?user=a&sort=expire")
    select_all = page.get_by_role("button", name="Select all 60 that match")
    page.get_by_label("Select this page").check()
    expect(select_all).to_be_visible()
    select_all.click()
    expect(page.get_by_text("60 GUIDs selected").last).to_be_visible()
    expect(select_all).to_have_count(0)
    page.get_by_role("button", name="Delete ...").click()
    page.get_by_label("Type 60 to confirm").fill("60")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No GUID matches.")).to_be_visible()

    assert [item["user"] for item in call(with_sixty, "GET", "/guid")["items"]] == ["b"]


def test_late_selection_of_all_does_not_change_the_filter(console: OpenConsole, with_sixty: Service) -> None:
    held_requests = HeldRequests()
    page = console(with_sixty, "guids?user=a")
    page.get_by_label("Select this page").check()
    page.route("**/guid?**limit=1000**", held_requests.hold)
    page.get_by_role("button", name="Select all 60 that match").click()
    page.get_by_label("User").fill("b")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()
    with page.expect_response("**/guid?**limit=1000**"):
        held_requests.first(page).continue_()
    page.evaluate("fetch('livez').then(response => response.text())")

    expect(page.get_by_role("group", name="Selected GUIDs")).to_have_count(0)
