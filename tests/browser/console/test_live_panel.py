"""Events appear as they happen, resume after an interruption, and take bounded space."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.console.conftest import OpenConsole, call, console_opener
from tests.support.backing_servers import Service, service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
SOON_MS = 60_000
SHOWN = 200
OF_ANOTHER_STORE = "AgAAAAAAAAAAAAAAAAAA"


def put_many(at: Service, count: int, first: int = 0) -> None:
    """Create `count` GUIDs, in batches."""
    for start in range(first, first + count, 1000):
        operations = [
            {"guid": f"{number:032X}", "user": "a"} for number in range(start, min(start + 1000, first + count))
        ]
        call(at, "POST", "/guid:batch", {"operations": operations})


def test_events_are_shown_as_they_happen_and_after_a_restart(console: OpenConsole, running: Service) -> None:
    page = console(running, "live")
    expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1, timeout=SOON_MS)
    running.stop()
    expect(page.get_by_text("goes on by itself")).to_be_visible(timeout=SOON_MS)
    running.start()
    call(running, "PUT", f"/guid/{GUID}", {"user": "second"})

    expect(rows).to_have_count(2, timeout=SOON_MS)
    expect(rows.first).to_contain_text("second")


def test_error_disappears_when_the_stream_resumes(console: OpenConsole, running: Service) -> None:
    page = console(running, "live")
    expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)
    running.stop()
    error = page.get_by_role("alert").filter(has_text="No answer.")
    expect(error).to_be_visible(timeout=SOON_MS)
    running.start()
    expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)

    expect(error).to_have_count(0)


def test_pause_keeps_the_cursor(console: OpenConsole, running: Service) -> None:
    page = console(running, "live")
    expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1, timeout=SOON_MS)
    page.get_by_role("button", name="Pause").click()
    call(running, "PUT", f"/guid/{GUID}", {"user": "meanwhile"})
    expect(page.get_by_text("Paused.")).to_be_visible()
    page.get_by_role("button", name="Go on").click()

    expect(rows).to_have_count(2, timeout=SOON_MS)


def test_many_events_take_a_bounded_space(console: OpenConsole, running: Service) -> None:
    page = console(running, "live")
    expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)
    call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
    expect(page.locator("tbody tr")).to_have_count(1, timeout=SOON_MS)
    put_many(running, 5000)

    expect(page.get_by_text("5,001 events, 4,801 of them not shown any more")).to_be_visible(timeout=SOON_MS)
    expect(page.locator("tbody tr")).to_have_count(SHOWN)


def test_missed_events_are_reported_with_two_ways_to_resume(browser: Browser, tmp_path: Path) -> None:
    with service(tmp_path, "--events-size", "16MiB") as running, console_opener(browser) as console:
        page = console(running, "live")
        expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)
        call(running, "PUT", f"/guid/{GUID}", {"user": "first"})
        expect(page.locator("tbody tr")).to_have_count(1, timeout=SOON_MS)
        foreign = f"{running.url}/events?cursor={OF_ANOTHER_STORE}&follow=true"
        page.route("**/events?**", lambda route: route.continue_(url=foreign), times=1)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("alert")).to_contain_text("Some events were missed")
        page.get_by_role("button", name="Go on with the next event").click()
        call(running, "PUT", f"/guid/{GUID}", {"user": "second"})

        expect(page.locator("tbody tr")).to_have_count(2, timeout=SOON_MS)


def test_filter_by_type_selects(console: OpenConsole, running: Service) -> None:
    page = console(running, "live?type=guid.deleted")
    page.get_by_role("heading", name="Live").wait_for()
    expect(page.get_by_text("Following.")).to_be_visible(timeout=SOON_MS)
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    call(running, "DELETE", f"/guid/{GUID}")

    expect(page.locator("tbody tr")).to_have_count(1, timeout=SOON_MS)
    expect(page.locator("tbody tr")).to_contain_text("deleted")
