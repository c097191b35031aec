"""The console uses only the documented interface, and computes the same values from /metrics as Prometheus."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.console.conftest import OpenConsole, call
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)
TEXT = """\
# HELP m_seconds Text with \\" and {braces}.
# TYPE m_seconds histogram
m_seconds_bucket{route="/a",le="0.1"} %d.0
m_seconds_bucket{route="/a",le="0.5"} %d.0
m_seconds_bucket{route="/a",le="+Inf"} %d.0
odd{name="a\\\\b\\"c,d}"} 1e-05
"""


def operations(at: Service) -> list[tuple[str, re.Pattern[str]]]:
    """Return the operations of the OpenAPI document, each with its method and the pattern of its path."""
    return [
        (method.upper(), re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))))
        for path, item in call(at, "GET", "/openapi.json")["paths"].items()
        for method in item
    ]


def test_every_request_is_an_operation_of_the_document(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "a"})
    sent: set[tuple[str, str]] = set()
    page = console(running)
    page.on("request", lambda request: sent.add((request.method, urlsplit(request.url).path)))
    page.reload()
    for panel in ("guids", "expiring", "live", "about", f"guids/{GUID}"):
        page.goto(f"{running.url}/console#/{panel}")
        page.get_by_role("heading", level=1).wait_for()
    page.get_by_text("What happened to it").click()
    expect(page.get_by_text("guid.created")).to_be_visible()
    page.get_by_role("button", name="Delete ...").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("heading", name="GUIDs", exact=True).wait_for()
    documented = operations(running)

    assert ("POST", "/guid:batch") in sent
    assert {each for each in sent if not any(each[0] == m and p.fullmatch(each[1]) for m, p in documented)} == set()


def evaluate(page: Page, expression: str, argument: object) -> object:
    """Evaluate an expression with the functions of promtext.js."""
    return page.evaluate(
        f"async given => {{ const p = await import('./console/promtext.js'); return {expression}; }}", argument
    )


def test_quantiles_equal_those_of_prometheus(console: OpenConsole, running: Service) -> None:
    page = console(running)
    expression = "p.quantileOf(given.q, p.parseMetrics(given.before), p.parseMetrics(given.after), 'm_seconds')"
    readings = {"before": TEXT % (10, 10, 10), "after": TEXT % (10, 110, 120)}
    by_hand = {0.5: 0.1 + 0.4 * 55 / 100, 0.9: 0.1 + 0.4 * 99 / 100, 0.99: 0.5}

    for q, value in by_hand.items():
        assert evaluate(page, expression, readings | {"q": q}) == pytest.approx(value)


def test_label_values_are_unescaped(console: OpenConsole, running: Service) -> None:
    samples = evaluate(console(running), "p.parseMetrics(given).get('odd')", TEXT % (0, 0, 0))

    assert samples == [{"labels": {"name": 'a\\b"c,d}'}, "value": 1e-05}]


def test_restarted_counter_increased_by_its_value(console: OpenConsole, running: Service) -> None:
    expression = "p.increase(p.parseMetrics('c 50\\n'), p.parseMetrics('c 20\\n'), 'c')"

    assert evaluate(console(running), expression, None) == 20


def test_curl_command_sends_the_same_request(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "it's"})
    page = console(running, "guids?user=it's")
    page.get_by_role("link", name=GUID).wait_for()

    command = page.locator("footer code").inner_text()
    assert command.startswith("curl -H 'Prefer: return=total-count'")
    assert "user=it%27s" in command


def test_console_works_under_a_path_of_a_proxy(console: OpenConsole, running: Service) -> None:
    prefix, requested_paths = "http://proxy.localhost/registry", []

    def forward(route: Route) -> None:
        requested_paths.append(route.request.url)
        headers = route.request.headers | {"host": f"127.0.0.1:{running.port}"}
        route.fulfill(response=route.fetch(url=route.request.url.replace(prefix, running.url), headers=headers))

    page = console(running, "about")
    page.context.route("http://proxy.localhost/**", forward)
    page.goto(f"{prefix}/console#/guids")
    page.get_by_role("button", name="New GUID").click()
    page.get_by_label("User", exact=True).last.fill("a")
    page.get_by_role("button", name="Create").click()
    page.get_by_role("button", name="Edit").wait_for()

    page.context.unroute_all(behavior="ignoreErrors")
    assert [url for url in requested_paths if "proxy.localhost" in url and not url.startswith(prefix)] == []
    assert f"{prefix}/guid" in page.locator("footer code").inner_text()
