"""The JavaScript of docs/events.md in a browser, and the event feed with a browser's EventSource."""

import re
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.browser.conftest import PageOpener
from tests.support.backing_servers import ROOT, Service, wait_until

pytestmark = pytest.mark.timeout(180)

TEXT = (ROOT / "docs" / "events.md").read_text()
(CLIENT,) = re.findall(r"```js\n// follow\.js\n(.*?)```", TEXT, re.DOTALL)
FIRST, SECOND = "0" * 32, "1" * 32
FOLLOW = """async () => {
  %s
  const { cursor, stock } = await takeStock("", null);
  window.seen = [...stock.keys()];
  (async () => {
    for await (const event of follow("", null, cursor)) window.seen.push(`${event.type} ${event.guid ?? ""}`);
  })();
}"""
LISTEN = """() => {
  window.seen = [];
  window.source = new EventSource("/events?from=now");
  window.source.onmessage = (message) => window.seen.push([JSON.parse(message.data).guid, message.lastEventId]);
  window.source.onerror = () => window.seen.push(["error", window.source.readyState]);
  return new Promise((resolve) => (window.source.onopen = resolve));
}"""


def put(running: Service, guid: str) -> None:
    """Create a GUID."""
    connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.request("PUT", f"/guid/{guid}", b'{"user": "a"}')
    assert connection.getresponse().status == 201
    connection.close()


def test_javascript_client_takes_stock_and_follows(show: PageOpener, running: Service) -> None:
    put(running, FIRST)
    page = show("/docs", "light")
    page.evaluate(FOLLOW % CLIENT)
    put(running, SECOND)
    wait_until(lambda: f"guid.created {SECOND}" in page.evaluate("window.seen"), "an event")
    assert page.evaluate("window.seen") == [FIRST, f"guid.created {SECOND}"]


def test_event_source_continues_after_a_break(show: PageOpener, running: Service, complaints: list[str]) -> None:
    """A block with only an id has set its cursor, even without an event. A 410 stops it permanently."""
    page = show("/docs", "light")
    page.evaluate(LISTEN)
    assert running.stop() == 0
    running.start()
    put(running, FIRST)  # between its two connections
    wait_until(lambda: FIRST in [each[0] for each in page.evaluate("window.seen")], "an event")
    seen: list[list[Any]] = page.evaluate("window.seen")
    assert [each[0] for each in seen if each[0] != "error"] == [FIRST]
    assert re.fullmatch("[A-Za-z0-9_-]{20}", seen[-1][1])
    gone = page.evaluate(
        """() => new Promise((resolve) => {
          const source = new EventSource("/events?cursor=AgAAAAAAAAAAAAAAAAAA");
          source.onerror = () => resolve(source.readyState);
        })"""
    )
    assert gone == 2, "CLOSED: it must not reconnect"
    page.close()  # so that no further message arrives
    complaints.clear()  # the browser logs broken connections
