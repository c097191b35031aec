"""A user creates, finds, edits, revokes, renews and deletes GUIDs with the keyboard alone."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.console.conftest import OpenConsole, call, tab_to
from tests.browser.console.held_requests import HeldRequests
from tests.support.backing_servers import Service, wait_until
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
DASHED = "{" + f"{GUID[:8]}-{GUID[8:12]}-{GUID[12:16]}-{GUID[16:20]}-{GUID[20:]}".lower() + "}"


SOON_MS = 60_000
"""Time limit of what must happen."""


def choose(page: Page, name: str) -> None:
    tab_to(page, name)
    page.keyboard.press("Enter")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_life_cycle_of_a_guid_by_keyboard_alone(console: OpenConsole, running: Service) -> None:
    page = console(running)
    page.get_by_role("heading", name="Overview").wait_for()
    press(page, "g", "g")
    page.get_by_role("heading", name="GUIDs").wait_for()

    page.keyboard.press("n")
    page.keyboard.type("worker 7")
    tab_to(page, "GUID (optional)")
    page.keyboard.type(GUID.lower())
    tab_to(page, "Metadata (optional)")
    page.keyboard.type('{"number": 12345678901234567890, "ratio": 1.0}')
    choose(page, "Create")
    page.get_by_role("heading", name=f"GUID {GUID}").wait_for()
    assert call(running, "GET", f"/guid/{GUID}")["metadata"]["number"] == 12345678901234567890

    press(page, "g", "o")
    page.get_by_role("heading", name="Overview").wait_for()
    page.keyboard.press("/")
    page.keyboard.type(DASHED)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text=f"Taken as {GUID}")).to_be_visible()

    page.get_by_role("button", name="Edit").wait_for()
    page.keyboard.press("e")
    page.get_by_label("User").wait_for()
    page.keyboard.press("Control+A")
    page.keyboard.type("mine")
    call(running, "PUT", f"/guid/{GUID}", {"user": "theirs", "expire": 4102444800})
    page.keyboard.press("Enter")
    conflict = page.get_by_role("dialog", name="Somebody changed this while you edited it")
    expect(conflict.get_by_role("row", name="User mine theirs both: they differ")).to_be_visible()
    choose(page, "Put mine on top of theirs")
    expect(page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    record = call(running, "GET", f"/guid/{GUID}")
    assert (record["user"], record["expire"]) == ("mine", "4102444800"), "their expiry stays"
    assert record["metadata"]["number"] == 12345678901234567890

    expect(page.get_by_role("definition").filter(has_text="mine")).to_be_visible()  # loaded again, with its new version
    choose(page, "Revoke ...")
    expect(page.get_by_role("dialog", name="Revoke 1 GUID?")).to_be_visible()
    choose(page, "Revoke")
    expect(page.get_by_text("It was revoked")).to_be_visible()

    choose(page, "Renew")
    expect(page.get_by_label("Valid for at least")).to_be_focused()
    page.keyboard.type("30d")
    choose(page, "Check first")
    choose(page, "Renew")
    expect(page.get_by_role("button", name="Edit")).to_be_visible()

    choose(page, "Delete ...")
    expect(page.get_by_role("dialog", name="Delete 1 GUID?")).to_be_visible()
    choose(page, "Delete")
    page.get_by_role("heading", name="GUIDs").wait_for()
    expect(page.get_by_text("No GUID matches.")).to_be_visible()


def test_bulk_deletion_counts_first_and_spares_changed_records(console: OpenConsole, running: Service) -> None:
    guids = [f"{number:032X}" for number in range(25)]
    for guid in guids:
        call(running, "PUT", f"/guid/{guid}", {"user": "a"})
    page = console(running, "guids")
    page.get_by_label("Select this page").check()
    call(running, "PUT", f"/guid/{guids[3]}", {"user": "changed"})
    page.get_by_role("button", name="Delete ...").click()
    dialog = page.get_by_role("dialog", name="Delete 24 GUIDs?")
    expect(dialog.get_by_text("changed meanwhile")).to_be_visible()
    button = dialog.get_by_role("button", name="Delete")
    expect(button).to_be_disabled()
    dialog.get_by_label("Type 24 to confirm").fill("25")
    expect(button).to_be_disabled()
    dialog.get_by_label("Type 24 to confirm").fill("24")
    button.click()
    expect(page.get_by_role("dialog", name="Delete: 24 deleted")).to_be_visible()
    page.get_by_role("button", name="Close").click()

    expect(page.get_by_role("link", name=guids[3])).to_be_visible()
    assert [item["guid"] for item in call(running, "GET", "/guid")["items"]] == [guids[3]]


def test_taking_theirs_does_not_change_the_record(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    page = console(running, f"guids/{GUID}")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("User").fill("mine")
    call(running, "PUT", f"/guid/{GUID}", {"user": "theirs"})
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Take theirs").click()

    expect(page.get_by_text("theirs", exact=True)).to_be_visible()
    assert call(running, "GET", f"/guid/{GUID}")["user"] == "theirs"


def test_edit_does_not_revive_a_guid_unless_it_sets_an_expiry(console: OpenConsole, running: Service) -> None:
    """The GUID expires while a person types, without a change of its version."""
    call(running, "PUT", f"/guid/{GUID}", {"user": "first", "ttl": 8})
    page = console(running, f"guids/{GUID}")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("User").fill("mine")
    expect(page.get_by_text("It expired")).to_be_attached(timeout=SOON_MS)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Meanwhile, this GUID expired.")).to_be_visible()
    assert call(running, "GET", "/guid?state=live")["items"] == []

    page.get_by_label("Expiry").fill("2100-01-01")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    assert call(running, "GET", f"/guid/{GUID}") == {"guid": GUID, "user": "mine", "expire": "4102444800"}


def test_change_that_both_have_made_does_not_revive_a_guid(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    page = console(running, f"guids/{GUID}")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("User").fill("same")
    call(running, "PUT", f"/guid/{GUID}", {"user": "same", "ttl": 8})
    page.get_by_role("button", name="Save").click()
    button = page.get_by_role("button", name="Put mine on top of theirs")
    button.wait_for()
    wait_until(lambda: call(running, "GET", "/guid?state=live")["items"] == [], "the expiry", seconds=SOON_MS / 1000)
    button.click()
    expect(page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    assert call(running, "GET", "/guid?state=live")["items"] == []


def test_pages_turn_forward_and_back(console: OpenConsole, running: Service) -> None:
    for number in range(60):
        call(running, "PUT", f"/guid/{number:032X}", {"user": "a"})
    page = console(running, "guids")
    expect(page.get_by_text("1\u201350 of 60 GUIDs")).to_be_visible()
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_role("link", name=f"{59:032X}")).to_be_visible()
    expect(page.get_by_text("51\u201360 of 60 GUIDs")).to_be_visible()
    page.get_by_role("button", name="Previous page").click()

    expect(page.get_by_role("link", name=f"{0:032X}")).to_be_visible()


def test_range_of_a_page_is_correct_after_a_deletion(console: OpenConsole, running: Service) -> None:
    for number in range(60):
        call(running, "PUT", f"/guid/{number:032X}", {"user": "a"})
    page = console(running, "guids")
    page.get_by_role("button", name="Next page").click()
    page.get_by_label(f"Select {59:032X}").check()
    page.get_by_role("button", name="Delete ...").click()
    page.get_by_role("dialog", name="Delete 1 GUID?").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("51\u201359 of 59 GUIDs")).to_be_visible()
    expect(page.get_by_role("button", name="Export 59 GUIDs")).to_be_visible()
    page.get_by_label("Select this page").check()
    page.get_by_role("button", name="Delete ...").click()
    page.get_by_role("dialog", name="Delete 9 GUIDs?").get_by_role("button", name="Delete").click()

    expect(page.get_by_text("This page has no GUIDs any more.")).to_be_visible()
    expect(page.get_by_role("button", name="Export 50 GUIDs")).to_be_visible()


def test_range_omits_a_wrong_total(console: OpenConsole, running: Service) -> None:
    script = "async given => (await import('./console/pages.js')).rangeOf('GUID', ...given)"
    page = console(running, "about")
    ranges = {
        (0, 0, False, 0): "0 GUIDs",
        (0, 1, False, 1): "1 GUID",
        (0, 50, True, 76): "1\u201350 of 76 GUIDs",
        (50, 26, False, 76): "51\u201376 of 76 GUIDs",
        (50, 27, False, 76): "51\u201377 of 77 GUIDs",
        (50, 50, True, 76): "GUIDs 51\u2013100",
        (50, 50, True, None): "GUIDs 51\u2013100",
    }

    assert {given: page.evaluate(script, list(given)) for given in ranges} == ranges


def test_failed_deletion_can_be_repeated(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, f"guids/{GUID}")
    page.route("**/guid:batch?**", lambda route: route.fulfill(status=500, json={"detail": "No."}), times=1)
    page.get_by_role("button", name="Delete ...").click()
    expect(page.get_by_role("alert")).to_contain_text("No.")
    page.get_by_role("button", name="Check again").click()

    expect(page.get_by_role("dialog", name="Delete 1 GUID?")).to_be_visible()


def test_running_deletion_cannot_be_closed(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    held_requests = HeldRequests()
    page = console(running, f"guids/{GUID}")
    page.get_by_role("button", name="Delete ...").click()
    dialog = page.get_by_role("dialog", name="Delete 1 GUID?")
    dialog.wait_for()
    page.route("**/guid:batch", held_requests.hold)
    dialog.get_by_role("button", name="Delete").click()
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_have_count(0)
    held_requests.first(page).continue_()

    expect(page.get_by_role("heading", name="GUIDs", exact=True)).to_be_visible()


def test_filter_by_user_is_in_the_address(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "wanted"})
    call(running, "PUT", f"/guid/{1:032X}", {"user": "other"})
    page = console(running, "guids")
    page.get_by_label("User").fill("wanted")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 GUID", exact=True)).to_be_visible()
    page.reload()

    expect(page.get_by_role("link", name=GUID)).to_be_visible()
    expect(page.get_by_role("link", name=f"{1:032X}")).not_to_be_visible()
