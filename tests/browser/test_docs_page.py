"""The documentation pages in a browser: their content, and requests sent from them."""

import pytest

from tests.browser.conftest import PageOpener

pytestmark = pytest.mark.timeout(180)  # a browser starts slowly


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_interface_is_shown_and_can_be_tried_out(show: PageOpener, scheme: str) -> None:
    page = show("/docs", scheme)

    for operation in ("about-getVersion", "guids-putGuid", "health-getLivez"):
        block = page.locator(f"#operations-{operation}")
        block.locator(".opblock-summary-control").click()
        block.locator(".try-out__btn").click()
        block.locator(".execute").click()
        status = block.locator(".live-responses-table tbody .response-col_status").first
        status.wait_for()
        assert status.inner_text().split()[0] in {"200", "201"}


@pytest.mark.parametrize("path", ["/docs", "/problems/expired"])
def test_colour_scheme_follows_the_system(show: PageOpener, path: str) -> None:
    def brightness(scheme: str) -> tuple[int, int]:
        page = show(path, scheme)
        heading = page.locator("h1, .title").first
        heading.wait_for()
        ink = heading.evaluate("node => getComputedStyle(node).color")
        paper = page.locator("body").evaluate("node => getComputedStyle(node).backgroundColor")
        return _sum(ink), _sum(paper)

    light, dark = brightness("light"), brightness("dark")
    assert light[0] + 300 < light[1]
    assert dark[1] + 300 < dark[0]


def test_page_follows_a_change_of_the_system_colour_scheme(show: PageOpener) -> None:
    page = show("/docs", "light")
    page.emulate_media(color_scheme="dark")
    page.locator("html.dark-mode").wait_for()
    page.emulate_media(color_scheme="light")
    page.locator("html:not(.dark-mode)").wait_for()


def test_problem_page_links_to_the_interface(show: PageOpener) -> None:
    page = show("/problems/not-found", "light")
    page.get_by_role("link", name="API documentation").click()
    page.locator(".opblock").first.wait_for()


def _sum(color: str) -> int:
    red, green, blue = color.removeprefix("rgb(").removesuffix(")").split(",")
    return int(red) + int(green) + int(blue)
