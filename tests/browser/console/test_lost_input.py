"""Input and secrets survive a key press, a step back, and the end of a key."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.console.conftest import OpenConsole, call
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)


def new_key(page: Page, owner: str) -> None:
    """Create a key, and wait for its secret."""
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Owner", exact=True).last.fill(owner)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("dialog", name="Copy the key now")).to_be_visible()


def test_secret_stays_until_it_is_copied(
    console: OpenConsole, controlled: Service, create_key: Callable[..., str]
) -> None:
    page = console(controlled, "about", key=create_key())
    page.goto(f"{controlled.url}/console#/keys")
    new_key(page, "bob")
    dialog = page.get_by_role("dialog", name="Copy the key now")
    secret = dialog.locator(".secret code").inner_text()
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    page.go_back()
    page.get_by_role("heading", name="About", level=1).wait_for()
    expect(dialog.locator(".secret code")).to_have_text(secret)
    assert page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))"), "leaving must ask first"
    dialog.get_by_label("I have copied the key").check()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    page.goto(f"{controlled.url}/console#/keys")
    new_key(page, "carol")

    assert dialog.locator(".secret code").inner_text() != secret


def test_cancelled_file_chooser_leaves_the_import_open(console: OpenConsole, running: Service) -> None:
    page = console(running, "guids")
    page.get_by_role("button", name="Import").click()
    dialog = page.get_by_role("dialog", name="Import GUIDs")
    page.get_by_label("File with one GUID per line").dispatch_event("cancel")

    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_merge_keeps_metadata_keys_of_others(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a", "metadata": {"mine": 1, "theirs": 1, "gone": 1}})
    page = console(running, f"guids/{GUID}")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Metadata").fill('{"mine": 2.50, "theirs": 1}')
    their_metadata = {"mine": 1, "theirs": 12345678901234567890, "gone": 1, "new": {"__proto__": []}}
    call(running, "PUT", f"/guid/{GUID}", {"user": "b", "metadata": their_metadata})
    page.get_by_role("button", name="Save").click()
    conflict = page.get_by_role("dialog", name="Somebody changed this while you edited it")
    expect(conflict.get_by_role("row", name="Metadata: mine 2.50 1 you")).to_be_visible()
    page.get_by_role("button", name="Put mine on top of theirs").click()
    expect(conflict).to_be_hidden()
    record = call(running, "GET", f"/guid/{GUID}")

    assert record["metadata"] == {"mine": 2.5, "theirs": 12345678901234567890, "new": {"__proto__": []}}
    assert record["user"] == "b"


def test_edit_is_restored_after_a_new_login(
    console: OpenConsole, controlled: Service, create_key: Callable[..., str]
) -> None:
    key = create_key()
    call(controlled, "PUT", f"/guid/{GUID}", {"user": "a"}, key=key)
    page = console(controlled, f"guids/{GUID}", key=key)
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("User").fill("long thought about")
    problem = {"title": "Unauthorized", "status": 401, "code": "unauthorized", "detail": "The key has ended."}
    page.route("**/guid/*", lambda route: route.fulfill(status=401, json=problem), times=1)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("does not accept this key")).to_be_visible()
    page.get_by_label("API key or token").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Go on editing").click()
    expect(page.get_by_label("User")).to_have_value("long thought about")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_be_hidden()

    assert call(controlled, "GET", f"/guid/{GUID}", key=key)["user"] == "long thought about"
    expect(page.get_by_role("button", name="Go on editing")).to_have_count(0)


def test_escape_keeps_a_draft_and_cancel_discards_it(console: OpenConsole, running: Service) -> None:
    page = console(running, "guids")
    page.get_by_role("button", name="New GUID").click()
    page.get_by_label("User").last.fill("worker")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status").filter(has_text="What you entered is kept")).to_be_visible()
    page.get_by_role("button", name="New GUID").click()
    expect(page.get_by_label("User").last).to_have_value("worker")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="New GUID").click()

    expect(page.get_by_label("User").last).to_have_value("")
