"""Requests of a page that a test holds, to decide when and with what they are answered."""

from playwright.sync_api import Page, Route


class HeldRequests:
    """Holds requests of a page: pass `hold` to `page.route`."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def hold(self, route: Route) -> None:
        self._routes.append(route)

    def first(self, page: Page) -> Route:
        """Wait until the page has sent a request, up to the time limit of the test, and return it."""
        while not self._routes:
            page.wait_for_timeout(10)
        return self._routes[0]
