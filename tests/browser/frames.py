"""Measure how smoothly the console draws: `python -m tests.browser.frames`.

It prints the longest time for which a script blocked drawing, and the memory of the scripts. It measures both while the
pages of a list of 10,000 GUIDs are turned, and while Live shows 1,000 events per second for ten seconds.
"""

import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import NAMES, QUIET
from tests.support.backing_servers import Service, service

RECORDS, PAGES = 10_000, 20
EVENTS_PER_SECOND, SECONDS = 1000, 10
_WATCH = """() => {
    window.longest = 0;
    const watch = new PerformanceObserver(list => {
        for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
    });
    watch.observe({type: "longtask"});
}"""


def put(at: Service, first: int, count: int, user: str) -> None:
    """Create GUIDs, or change their user, in one batch."""
    operations = [{"guid": f"{number:032X}", "user": user} for number in range(first, first + count)]
    body = json.dumps({"operations": operations}).encode()
    headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
    urlopen(Request(f"{at.url}/guid:batch", body, headers), timeout=60).close()


def heap_mib(page: Page) -> float:
    """Return the memory of the scripts after a garbage collection, in MiB."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 2**20


def turn_pages(page: Page, at: Service) -> None:
    """Turn the pages of the list."""
    page.goto(f"{at.url}/console#/guids")
    page.locator("tbody tr").first.wait_for()
    page.evaluate(_WATCH)
    for _ in range(PAGES):
        shown = page.locator("tbody th").first.inner_text()
        page.get_by_role("button", name="Next page").click()
        page.wait_for_function("before => document.querySelector('tbody th').innerText !== before", arg=shown)


def follow(page: Page, at: Service) -> None:
    """Follow events that arrive at a steady rate."""
    page.goto(f"{at.url}/console#/live")
    page.get_by_text("Following.").wait_for()
    page.evaluate(_WATCH)
    began = time.monotonic()
    for second in range(SECONDS * 10):
        put(at, EVENTS_PER_SECOND // 10 * (second % 50), EVENTS_PER_SECOND // 10, f"round {second}")
        time.sleep(max(0.0, began + (second + 1) / 10 - time.monotonic()))
    page.get_by_text(f"{EVENTS_PER_SECOND * SECONDS:,} events").wait_for(timeout=60_000)
    print(f"  {EVENTS_PER_SECOND * SECONDS:,} events in {time.monotonic() - began:.1f} s")


def main() -> None:
    """Measure both cases, and print the figures."""
    binary = next(filter(None, map(shutil.which, NAMES)))
    with TemporaryDirectory() as folder, service(Path(folder)) as running, sync_playwright() as playwright:
        for first in range(0, RECORDS, 1000):
            put(running, first, 1000, "somebody")
        chromium = playwright.chromium.launch(executable_path=binary, args=QUIET)
        for name, use in (("list", turn_pages), ("live", follow)):
            page = chromium.new_page()
            use(page, running)
            longest, heap = page.evaluate("window.longest"), heap_mib(page)
            print(f"{name}: longest task {longest:.0f} ms, memory of scripts {heap:.1f} MiB")
            page.close()
        chromium.close()


if __name__ == "__main__":
    main()
