"""The console shows the real state: revoked GUIDs, renewals without effect, a shutdown, and changes by others."""

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.console.conftest import OpenConsole, call
from tests.browser.console.held_requests import HeldRequests
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
SOON_MS = 60_000


def test_shutdown_is_explained(console: OpenConsole, running: Service) -> None:
    problem = {"type": "/problems/unavailable", "title": "Service unavailable", "status": 503, "code": "unavailable"}
    parts = {"ready": False, "store": "up", "cache": "up", "age_ms": 250, "detail": "The service is shutting down."}
    page = console(running, "guids")
    page.route("**/readyz", lambda route: route.fulfill(status=503, json=problem | parts))

    expect(page.locator(".service")).to_have_text("■ not ready: The service is shutting down", timeout=SOON_MS)


def renew(page: Page, duration: str) -> None:
    page.get_by_role("button", name="Renew").click()
    page.get_by_label("Valid for at least").fill(duration)
    page.get_by_role("button", name="Check first").click()


def test_renewal_without_effect_is_not_offered(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, f"guids/{GUID}")
    renew(page, "1d")
    expect(page.get_by_role("dialog", name="No GUID can be renewed for 1d")).to_contain_text("valid for longer already")
    page.get_by_role("button", name="Cancel").click()
    renew(page, "90d")
    page.get_by_role("dialog", name="Renew 1 GUID for 90d?").get_by_role("button", name="Renew").click()

    expect(page.get_by_role("status").filter(has_text="1 renewed.")).to_be_visible()


def test_revoked_guid_is_shown_as_revoked(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "somebody", "metadata": {"n": 12345678901234567890}})
    call(running, "PUT", f"/guid/{GUID}", {"expire": "0"})
    page = console(running, f"guids/{GUID}")

    expect(page.get_by_text("It was revoked")).to_be_visible()
    expect(page.get_by_text("12345678901234567890")).to_be_visible()
    expect(page.get_by_text("somebody")).to_be_visible()
    expect(page.get_by_text("1970")).to_have_count(0)
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)


@pytest.mark.parametrize("name", ["nothing", "__proto__", "constructor"])
def test_unknown_panel_is_named_as_such(console: OpenConsole, running: Service, name: str) -> None:
    expect(console(running, name).get_by_text("The console has no such panel.")).to_be_visible()


def test_event_of_a_revocation_has_its_time(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, f"guids/{GUID}")
    live = console(running, "live")
    live.get_by_text("Following.").wait_for()
    call(running, "PUT", f"/guid/{GUID}", {"expire": "0"})
    expect(live.get_by_role("row").filter(has_text="expired").locator("time")).to_have_attribute(
        "title", re.compile(rf"^{time.gmtime().tm_year}")
    )
    page.get_by_text("It was revoked").wait_for()
    page.get_by_text("What happened to it").click()

    expect(page.get_by_role("listitem").filter(has_text="guid.expired")).to_be_visible()
    expect(page.get_by_text("1970")).to_have_count(0)


def test_revocation_is_distinguished_from_expiry(console: OpenConsole, running: Service) -> None:
    revoked, expired = f"{1:032X}", f"{2:032X}"
    call(running, "PUT", f"/guid/{revoked}", {"user": "a", "expire": int(time.time()) + 3600})
    call(running, "PUT", f"/guid/{revoked}", {"expire": int(time.time()) - 1})
    call(running, "PUT", f"/guid/{expired}", {"user": "b", "expire": int(time.time()) + 2})
    page = console(running, f"guids/{expired}")
    expect(page.get_by_text("It expired")).to_be_visible(timeout=SOON_MS)
    expect(page.get_by_role("button", name="Revoke")).to_be_visible()
    page.goto(f"{running.url}/console#/guids/{revoked}")
    expect(page.get_by_text("It was revoked")).to_be_visible()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    page.goto(f"{running.url}/console#/guids?state=expired")

    expect(page.get_by_role("row", name=revoked)).to_contain_text("revoked")
    expect(page.get_by_role("row", name=expired)).not_to_contain_text("revoked")


def test_revoked_guid_among_many_shows_its_members(console: OpenConsole, running: Service) -> None:
    guids = [f"{number:032X}" for number in range(600)]
    creations = [{"guid": guid, "user": f"user of {guid}", "expire": "0"} for guid in guids]
    call(running, "POST", "/guid:batch", {"operations": creations})
    page = console(running, f"guids/{guids[-1]}")

    expect(page.get_by_text(f"user of {guids[-1]}")).to_be_visible()


def test_changed_revoked_guid_is_not_deleted(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a", "expire": "0"})
    page = console(running, f"guids/{GUID}")
    expect(page.get_by_text("It was revoked")).to_be_visible()
    call(running, "PUT", f"/guid/{GUID}", {"expire": 4102444800})
    page.get_by_role("button", name="Delete ...").click()

    expect(page.get_by_role("dialog")).to_contain_text("changed meanwhile")


def test_expired_guid_of_unknown_version_can_only_be_renewed(console: OpenConsole, running: Service) -> None:
    """While the page searches for it. Whatever somebody else has just written must not be deleted unseen."""
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, f"guids/{GUID}")
    expect(page.get_by_role("button", name="Delete ...")).to_be_visible()
    searches: list[Route] = []
    page.route("**/guid?*state=expired*", lambda route: searches.append(route))  # noqa: PLW0108  # not a built-in method
    call(running, "PUT", f"/guid/{GUID}", {"expire": "0"})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("Loading ...")).to_be_visible()

    expect(page.get_by_role("button", name="Renew")).to_be_visible()
    expect(page.get_by_role("button", name="Delete ...")).to_have_count(0)
    for search in searches:
        search.continue_()
    page.unroute_all()
    expect(page.get_by_role("button", name="Delete ...")).to_be_visible()


def test_guid_that_changes_behind_the_dialog_is_not_deleted(console: OpenConsole, running: Service) -> None:
    """The page loads the change. The person has decided about the version before it."""
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    page = console(running, f"guids/{GUID}")
    page.get_by_role("button", name="Delete ...").click()
    dialog = page.get_by_role("dialog", name="Delete 1 GUID?")
    dialog.wait_for()
    call(running, "PUT", f"/guid/{GUID}", {"user": "second"})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("second", exact=True)).to_be_attached()
    dialog.get_by_role("button", name="Delete", exact=True).click()

    expect(page.get_by_role("dialog", name="Delete: 0 deleted")).to_contain_text("changed meanwhile")
    assert call(running, "GET", f"/guid/{GUID}")["user"] == "second"


def test_page_follows_changes_of_its_guid(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    page = console(running, f"guids/{GUID}")
    expect(page.get_by_text("first", exact=True)).to_be_visible()
    call(running, "PUT", f"/guid/{GUID}", {"user": "second", "expire": int(time.time()) + 20})
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("User")).to_have_value("second")
    page.get_by_role("button", name="Cancel").click()

    expect(page.get_by_text("second", exact=True)).to_be_visible()
    expect(page.get_by_text("It expired")).to_be_visible(timeout=SOON_MS)
    call(running, "PUT", f"/guid/{GUID}", {"user": "third"})
    expect(page.get_by_text("third", exact=True)).to_be_visible(timeout=SOON_MS)


def test_failed_filter_removes_old_rows(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, "guids")
    page.get_by_role("button", name="Export 1").wait_for()
    problem = {"title": "Invalid", "status": 400, "code": "invalid-parameter", "detail": "Not so."}
    page.route("**/guid?**", lambda route: route.fulfill(status=400, json=problem))
    page.get_by_label("State").select_option("all")
    expect(page.get_by_role("alert")).to_contain_text("Not so.")

    expect(page.get_by_role("link", name=GUID)).to_have_count(0)
    expect(page.get_by_text("1 GUID", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Export", exact=True)).to_be_visible()


def test_all_bars_fit_and_have_labels(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a", "expire": int(time.time()) + 29 * 86400})
    page = console(running, "expiring")
    days = page.get_by_role("region", name="The next 30 days")
    bars = days.get_by_role("button")
    expect(bars).to_have_count(30)
    chart = page.get_by_role("group", name="Expiring by day")

    assert chart.evaluate("element => element.scrollWidth <= element.clientWidth"), "no bar may be cut off"
    assert bars.first.evaluate("element => element.getBoundingClientRect().width") >= 24
    expect(days.get_by_text("now", exact=True)).to_be_visible()
    expect(days.get_by_text("in 30 days")).to_be_visible()


def test_axis_on_a_narrow_screen_ends_at_the_last_bar(console: OpenConsole, running: Service) -> None:
    page = console(running, "expiring", width=360)
    days = page.get_by_role("region", name="The next 30 days")
    edge = "element => element.getBoundingClientRect().right"
    end = days.get_by_text("in 30 days").evaluate(edge)

    assert end == pytest.approx(days.get_by_role("button").last.evaluate(edge), abs=1)


def test_durations_are_written_out(console: OpenConsole, running: Service) -> None:
    script = "async given => { const v = await import('./console/values.js'); return given.map(v.duration); }"
    seconds = [0, 1, 59.9, 60, 7199, 7200, 86400, 89.5 * 86400, 800 * 86400]
    written = ["0 seconds", "1 second", "59 seconds", "1 minute", "1 hour", "2 hours", "1 day", "89 days", "2 years"]

    assert console(running, "about").evaluate(script, seconds) == written


@pytest.mark.parametrize("pasted", ["schlüssel", "ключ"])
def test_key_with_other_characters_than_ascii_is_explained(
    console: OpenConsole, controlled: Service, pasted: str
) -> None:
    page = console(controlled)
    page.get_by_label("API key or token").fill(pasted)
    page.keyboard.press("Enter")

    expect(page.get_by_role("alert")).to_contain_text("of ASCII")


def test_second_login_attempt_clears_the_error(
    console: OpenConsole, controlled: Service, create_key: Callable[..., str]
) -> None:
    held_requests = HeldRequests()
    page = console(controlled)
    field = page.get_by_label("API key or token")
    field.fill("gs_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Malformed API key")
    page.route("**/keys/self", held_requests.hold)
    field.fill(create_key())
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Wait ...")).to_be_visible()

    expect(page.get_by_text("does not accept this key")).to_have_count(0)
    held_requests.first(page).continue_()  # otherwise playwright waits for its response during the next test
    expect(page.get_by_role("navigation", name="Panels")).to_be_visible()


def test_quotes_around_a_key_are_ignored(
    console: OpenConsole, controlled: Service, create_key: Callable[..., str]
) -> None:
    page = console(controlled, key=f'"{create_key()}"')

    expect(page.get_by_role("navigation", name="Panels")).to_be_visible()


def test_error_removes_an_old_message(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    page = console(running, f"guids/{GUID}")
    saved = page.get_by_role("status").filter(has_text="Saved.")
    for user in ("b", "c"):
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("User").fill(user)
        if user == "c":
            expect(saved).to_have_count(1)
            page.route("**/guid/*", lambda route: route.fulfill(status=500, json={"detail": "No."}), times=1)
        page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").filter(has_text="No.")).to_be_visible()

    expect(saved).to_have_count(0)


def test_footer_has_the_command_and_body_of_its_panel(console: OpenConsole, running: Service) -> None:
    for number in range(30):
        call(running, "PUT", f"/guid/{number:032X}", {"user": "a"})
    page = console(running, "guids")
    page.get_by_label("Select this page").check()
    page.get_by_role("button", name="Delete ...").click()
    page.get_by_role("dialog", name="Delete 30 GUIDs?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("footer")).to_contain_text("@body.json")
    expect(page.get_by_role("button", name="Copy body.json")).to_be_visible()
    page.get_by_role("link", name="Overview").click()

    expect(page.locator("footer code")).to_contain_text("/stats")
    expect(page.get_by_role("button", name="Copy body.json")).to_have_count(0)


def test_emoji_stay_intact_and_hidden_characters_are_shown(console: OpenConsole, running: Service) -> None:
    script = "async text => (await import('./console/values.js')).visible(text)"
    page = console(running, "about")

    assert page.evaluate(script, "👩\u200d💻 a\u200db") == "👩\u200d💻 a\\u{200d}b"
