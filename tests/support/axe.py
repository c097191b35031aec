"""Run axe-core on a page in a browser."""

from typing import Any

from playwright.sync_api import Page

from tests.support.node_packages import package

AXE = package("axe-core") / "axe.min.js"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def violations(page: Page) -> list[str]:
    """Return the rules of axe-core that a page violates, each with the elements concerned."""
    session = page.context.new_cdp_session(page)
    session.send("Runtime.evaluate", {"expression": AXE.read_text()})  # not as a script: the policy allows none
    results: dict[str, Any] = page.evaluate("levels => axe.run(document, {runOnly: levels})", LEVELS)
    assert results["passes"], "axe-core has checked something"
    return [
        f"{violation['id']}: {[node['html'] for node in violation['nodes']]}" for violation in results["violations"]
    ]
