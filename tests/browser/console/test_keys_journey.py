"""An admin logs in, creates a key, uses, rotates and revokes it. The keys do not leak."""

from collections.abc import Callable
from urllib.error import HTTPError

import pytest
from playwright.sync_api import Page, expect

from tests.browser.console.conftest import OpenConsole, call
from tests.browser.console.held_requests import HeldRequests
from tests.support.backing_servers import Service, wait_until
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
KeyFactory = Callable[..., str]


def status_with(key: str, at: Service) -> int:
    try:
        call(at, "GET", "/guid", key=key)
    except HTTPError as error:
        return error.code
    return 200


def secret_of(page: Page) -> str:
    """Return the key that the dialog shows, and close it."""
    dialog = page.get_by_role("dialog", name="Copy the key now")
    key: str = dialog.locator(".secret code").inner_text()
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    dialog.get_by_label("I have copied the key").check()
    dialog.get_by_role("button", name="Close").click()
    return key


def test_key_is_created_used_rotated_and_revoked(
    console: OpenConsole, controlled: Service, create_key: KeyFactory
) -> None:
    page = console(controlled, "keys", key=create_key())
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Owner", exact=True).last.fill("bob")
    page.get_by_label("write: create and change GUIDs").check()
    page.get_by_label("Note (optional)").fill("billing")
    page.get_by_role("button", name="Create").click()
    first = secret_of(page)
    call(controlled, "PUT", f"/guid/{GUID}", {"user": "a"}, key=first)

    row = page.get_by_role("row").filter(has_text="billing")
    row.get_by_role("button", name="Rotate").click()
    page.get_by_label("The old secret ends").select_option("now: the key has leaked")
    page.get_by_role("button", name="Rotate", exact=True).click()
    second = secret_of(page)
    wait_until(lambda: status_with(first, controlled) == 401, "the old secret to end", controlled.log)
    assert status_with(second, controlled) == 200

    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(row.get_by_text("revoked")).to_be_visible()
    wait_until(lambda: status_with(second, controlled) == 401, "the key to end", controlled.log)


def test_holding_enter_revokes_nothing(console: OpenConsole, controlled: Service, create_key: KeyFactory) -> None:
    key = create_key()
    page = console(controlled, "keys", key=key)
    page.get_by_role("button", name="Revoke").focus()
    page.keyboard.down("Enter")
    dialog = page.get_by_role("dialog", name="Revoke the key of alice?")
    dialog.wait_for()
    page.keyboard.down("Enter")  # the key repeats while it is held
    page.keyboard.up("Enter")

    expect(dialog.get_by_role("heading")).to_be_focused()
    assert status_with(key, controlled) == 200


def test_warning_names_an_admin_key_without_expiry(
    console: OpenConsole, controlled: Service, create_key: KeyFactory
) -> None:
    page = console(controlled, "keys", key=create_key())

    expect(page.get_by_text("admin without an end")).to_be_visible()


def test_revoked_key_leads_back_to_the_login(console: OpenConsole, controlled: Service, create_key: KeyFactory) -> None:
    admin, key = create_key(), create_key("read", "bob")
    page = console(controlled, "guids", key=key)
    page.get_by_role("heading", name="GUIDs").wait_for()
    [key_of_bob] = [each for each in call(controlled, "GET", "/keys", key=admin)["items"] if each["owner"] == "bob"]
    call(controlled, "DELETE", f"/keys/{key_of_bob['id']}", key=admin)
    wait_until(lambda: status_with(key, controlled) == 401, "the key to end", controlled.log)
    page.get_by_label("State").select_option("all")

    expect(page.get_by_text("does not accept this key")).to_be_visible()
    assert page.url.endswith("#/guids?state=all"), "the console must return to this page after the login"


def test_rejected_key_is_explained(console: OpenConsole, controlled: Service) -> None:
    page = console(controlled)
    page.get_by_label("API key or token").fill("gs_wrong")
    page.keyboard.press("Enter")

    expect(page.get_by_role("alert")).to_contain_text("key")


@pytest.mark.parametrize("is_remembered", [True, False])
def test_key_is_only_in_memory_and_session_storage(
    console: OpenConsole, controlled: Service, create_key: KeyFactory, is_remembered: bool
) -> None:
    key = create_key()
    urls: list[str] = []
    page = console(controlled)
    page.on("request", lambda request: urls.append(request.url))
    page.get_by_label("API key or token").fill(key)
    page.get_by_label("Keep it until").set_checked(is_remembered)
    page.keyboard.press("Enter")
    for panel in ("GUIDs", "Live", "Keys", "About", "Overview"):
        page.get_by_role("navigation").get_by_role("link", name=panel).click()
        page.get_by_role("heading", name=panel, level=1).wait_for()

    assert key not in page.content()
    assert all(key not in url for url in urls)
    assert key not in controlled.log.read_text()
    assert key not in page.evaluate("JSON.stringify([{...localStorage}, document.cookie, history.state, name])")
    assert (key in page.evaluate("JSON.stringify({...sessionStorage})")) == is_remembered
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("API key or token").wait_for()
    assert key not in page.evaluate("JSON.stringify({...sessionStorage})")


def test_idle_page_forgets_the_key(console: OpenConsole, controlled: Service, create_key: KeyFactory) -> None:
    page = console(controlled)
    page.clock.install()
    page.reload()
    page.get_by_label("API key or token").fill(create_key())
    page.keyboard.press("Enter")
    page.get_by_role("navigation", name="Panels").wait_for()
    page.clock.fast_forward("31:00")

    expect(page.get_by_text("You were away for 30 minutes")).to_be_visible()


@pytest.mark.parametrize(
    ("scopes", "panels", "buttons"),
    [
        ("read", {"Overview", "GUIDs", "Expiring", "Live", "About"}, {"Export 1 GUID"}),
        ("read,write", {"Overview", "GUIDs", "Expiring", "Live", "About"}, {"New GUID", "Import", "Export 1 GUID"}),
        ("write", {"Overview", "GUIDs", "About"}, {"New GUID", "Import"}),
        ("monitor", {"Overview", "About"}, set()),
        ("admin", {"Overview", "GUIDs", "Expiring", "Live", "Keys", "About"}, {"New GUID", "Import", "Export 1 GUID"}),
    ],
)
def test_console_shows_only_permitted_panels_and_buttons(
    console: OpenConsole, controlled: Service, create_key: KeyFactory, scopes: str, panels: set[str], buttons: set[str]
) -> None:
    call(controlled, "PUT", f"/guid/{GUID}", {"user": "a"}, key=create_key())
    forbidden: list[str] = []
    page = console(controlled, key=create_key(scopes))
    page.on("response", lambda response: forbidden.append(response.url) if response.status in {401, 403} else None)
    links = page.get_by_role("navigation").get_by_role("link")
    assert set(links.all_inner_texts()) == panels
    for panel in sorted(panels):
        page.get_by_role("navigation").get_by_role("link", name=panel).click()
        page.get_by_role("heading", name=panel, level=1).wait_for()
        page.wait_for_load_state("networkidle") if panel not in {"Live", "Overview"} else None
        if panel == "GUIDs":
            if "read" in scopes or scopes == "admin":
                page.get_by_role("button", name="Export 1").wait_for()
            assert set(page.locator(".tools button").all_inner_texts()) == buttons
    assert forbidden == []


def test_late_401_from_before_the_login_keeps_the_session(
    console: OpenConsole, controlled: Service, create_key: KeyFactory
) -> None:
    held_requests = HeldRequests()
    page = console(controlled, "about", prepare=lambda page: page.route("**/keys/self", held_requests.hold, times=1))
    first_request = held_requests.first(page)
    page.get_by_label("API key or token").fill(create_key())
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="About", level=1).wait_for()
    with page.expect_response(lambda response: response.status == 401):
        first_request.fulfill(status=401, json={"title": "Unauthorized", "status": 401})
    page.get_by_role("navigation").get_by_role("link", name="GUIDs").click()

    expect(page.get_by_role("heading", name="GUIDs", level=1)).to_be_visible()


def test_link_adds_no_parameters_to_the_list_of_keys(
    console: OpenConsole, controlled: Service, create_key: KeyFactory
) -> None:
    page = console(controlled, "keys?state=live&view=other&owner=alice", key=create_key())

    expect(page.get_by_role("row").filter(has_text="alice")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
