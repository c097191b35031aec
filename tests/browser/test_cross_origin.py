"""What a page of another origin learns from a service with access control off."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser

from tests.support.backing_servers import Service

pytestmark = pytest.mark.timeout(180)

LIVE, ABSENT = "A" * 32, "B" * 32
PREFETCH = """url => new Promise(resolve => {
  const link = document.createElement("link");
  Object.assign(link, { rel: "prefetch", href: url, onload: () => resolve("load"), onerror: () => resolve("error") });
  document.head.append(link);
})"""


class OtherSite(BaseHTTPRequestHandler):
    """A site that has one empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>other</title>")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def other_origin() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherSite) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_prefetch_does_not_tell_whether_a_guid_is_live(browser: Browser, running: Service, other_origin: str) -> None:
    connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.request("PUT", f"/guid/{LIVE}", b'{"user": "a"}')
    assert connection.getresponse().status == 201
    connection.close()
    page = browser.new_page()
    page.goto(other_origin)
    outcomes = [page.evaluate(PREFETCH, f"{running.url}/guid/{guid}") for guid in (LIVE, ABSENT)]
    page.close()
    assert outcomes == ["error", "error"]
