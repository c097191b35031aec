"""Keyboard focus follows the next step, errors are announced at their field, and small screens show the content."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.console.conftest import OpenConsole, call, tab_to
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
COUNT = 25


@pytest.fixture
def filled(running: Service) -> Service:
    """A service with some GUIDs."""
    for number in range(COUNT):
        call(running, "PUT", f"/guid/{number:032X}", {"user": "a"})
    return running


def test_focus_follows_the_steps_of_a_dialog(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids")
    page.get_by_label("Select this page").check()
    expect(page.get_by_role("status").filter(has_text="25 GUIDs selected")).to_have_count(1)
    page.get_by_role("heading", name="GUIDs", level=1).focus()
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Renew")).to_be_focused()
    page.get_by_role("button", name="Delete ...").press("Enter")
    expect(page.get_by_label("Type 25 to confirm")).to_be_focused()
    page.keyboard.type("25")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No GUID matches.")).to_be_visible()

    expect(page.get_by_role("heading", name="GUIDs", level=1)).to_be_focused()


def test_shortcuts_work_on_the_checkbox_of_a_row(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids")
    page.get_by_label(f"Select {0:032X}").check()
    page.keyboard.press("j")
    expect(page.get_by_role("link", name=f"{1:032X}")).to_be_focused()
    page.get_by_label(f"Select {2:032X}").check()
    page.keyboard.press("b")

    expect(page.get_by_role("button", name="Renew")).to_be_focused()


def test_selection_keeps_the_row_in_view(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids", width=320)
    page.set_viewport_size({"width": 320, "height": 256})
    page.get_by_role("link", name=f"{0:032X}").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.get_by_role("button", name="Renew").wait_for()

    expect(page.get_by_role("link", name=f"{0:032X}")).to_be_in_viewport(ratio=1)


def test_second_conflict_is_announced_at_its_button(console: OpenConsole, filled: Service) -> None:
    guid = f"{0:032X}"
    page = console(filled, f"guids/{guid}")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("User").fill("mine")
    call(filled, "PUT", f"/guid/{guid}", {"user": "theirs"})
    page.keyboard.press("Enter")
    conflict = page.get_by_role("dialog", name="Somebody changed this while you edited it")
    conflict.wait_for()
    call(filled, "PUT", f"/guid/{guid}", {"user": "theirs again"})
    button = conflict.get_by_role("button", name="Put mine on top of theirs")
    button.press("Enter")

    announcement = conflict.get_by_role("status")  # outside a modal dialog, screen readers hear nothing
    expect(announcement).to_have_text("Somebody changed this while you edited it.")
    expect(conflict).to_contain_text("theirs again")
    expect(button).to_be_focused()


def test_confirmation_field_is_announced_with_its_effect(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids")
    page.get_by_label("Select this page").check()
    page.get_by_role("button", name="Delete ...").click()

    expect(page.get_by_label("Type 25 to confirm")).to_have_accessible_description(
        "25 GUIDs will be deleted. This cannot be undone."
    )


def test_focus_moves_to_the_heading_after_login(
    console: OpenConsole, controlled: Service, create_key: Callable[..., str]
) -> None:
    page = console(controlled, "guids", key=create_key())

    expect(page.get_by_role("heading", name="GUIDs", level=1)).to_be_focused()


def test_focus_stays_on_export(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids")
    button = page.get_by_role("button", name="Export 25")
    with page.expect_download():
        button.press("Enter")

    expect(button).to_be_focused()
    expect(page.get_by_text("Exported 25 GUIDs to guids-")).to_be_visible()


def test_hidden_button_is_not_a_tab_stop(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids")
    page.get_by_label("Sort by").focus()
    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.textContent") != "Apply"


def test_narrow_screen_selects_a_page(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids", width=320)
    box = page.get_by_label("Select this page")
    box.click()

    expect(page.get_by_text("25 GUIDs selected").last).to_be_visible()


def test_zoomed_screen_has_no_fixed_elements(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids", width=320)
    page.set_viewport_size({"width": 320, "height": 256})
    page.get_by_label("Select this page").check()
    style = "element => getComputedStyle(element).position"

    assert {page.locator(each).evaluate(style) for each in ("footer", ".bulk", "header")} == {"static"}


def test_zoomed_screen_shows_the_content_at_once(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids", width=320)
    page.set_viewport_size({"width": 320, "height": 256})
    button = page.get_by_role("button", name="New GUID")
    expect(button).to_be_in_viewport(ratio=1)

    assert page.get_by_role("banner").evaluate("element => element.getBoundingClientRect().bottom") <= 256 / 4
    assert button.evaluate("element => element.getBoundingClientRect().bottom") <= 256 / 2


def test_menu_of_a_narrow_screen_opens_by_keyboard(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids", width=320)
    menu, panels = page.get_by_role("button", name="Menu"), page.get_by_role("navigation", name="Panels")
    expect(menu).to_have_attribute("aria-expanded", "false")
    expect(panels).to_be_hidden()
    menu.press("Enter")
    expect(menu).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("button", name="Keyboard help")).to_be_visible()
    tab_to(page, "Expiring")
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    expect(panels).to_be_hidden()
    menu.press("Enter")
    tab_to(page, "Live")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Live", level=1)).to_be_focused()

    expect(panels).to_be_hidden()


def test_menu_of_a_narrow_screen_closes_after_any_choice(console: OpenConsole, running: Service) -> None:
    page = console(running, "live", width=320)
    menu, panels = page.get_by_role("button", name="Menu"), page.get_by_role("navigation", name="Panels")
    menu.click()
    panels.get_by_role("link", name="Live").click()
    expect(panels).to_be_hidden()
    menu.click()
    expect(panels).to_be_visible()
    page.get_by_label("Find a GUID").fill(GUID)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"GUID {GUID}")).to_be_visible()

    expect(panels).to_be_hidden()


def test_wide_screen_has_no_menu_button(console: OpenConsole, filled: Service) -> None:
    page = console(filled, "guids")

    expect(page.get_by_role("link", name="Expiring")).to_be_visible()
    expect(page.get_by_role("button", name="Menu")).to_be_hidden()


def test_form_reports_missing_values(console: OpenConsole, running: Service) -> None:
    page = console(running, "guids")
    page.get_by_role("button", name="New GUID").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.get_by_label("User")).to_be_focused()
    assert dialog.get_by_label("User").evaluate("element => element.validationMessage")
    dialog.get_by_label("User").fill("a")
    field = dialog.get_by_label("GUID (optional)")
    field.fill(GUID[:31])
    expect(dialog.get_by_text("this has 31")).to_have_count(0)
    dialog.get_by_role("button", name="Create").click()

    expect(field).to_be_focused()
    dialog.get_by_label("User").focus()
    expect(dialog.get_by_text("A GUID has 32 hexadecimal characters; this has 31.")).to_be_visible()


def test_invalid_guid_is_explained_at_its_field(console: OpenConsole, running: Service) -> None:
    page = console(running)
    page.get_by_label("Find a GUID").fill("xyz")
    page.keyboard.press("Enter")

    expect(page.get_by_role("search").get_by_role("alert")).to_contain_text("“x” is not one")


def test_filters_add_no_browser_history(console: OpenConsole, running: Service) -> None:
    page = console(running, "about")
    page.goto(f"{running.url}/console#/guids")
    for state in ("all", "expired"):
        page.get_by_label("State").select_option(state)
        page.wait_for_url(f"**state={state}")
    page.go_back()

    expect(page.get_by_role("heading", name="About", level=1)).to_be_visible()
