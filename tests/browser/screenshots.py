"""Make the screenshots of the console for README and docs: `make screenshots`."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from tests.browser.conftest import NAMES, QUIET
from tests.support.backing_servers import ROOT, pdapt, service

FOLDER = ROOT / "docs" / "images"
PANELS = {"overview": ("", ".plots"), "guids": ("guids", "tbody tr"), "expiring": ("expiring", ".bars")}
"""The screenshots, each with its panel and an element that is present once the panel is drawn."""
PLOTTED_MS = 12_000
"""Time that the plots get to fill."""


def main() -> None:
    """Fill a service with the demo, and write a screenshot of each panel."""
    binary = next(filter(None, map(shutil.which, NAMES)))
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder, service(Path(folder)) as running, sync_playwright() as playwright:
        created = pdapt(Path(folder), "demo", "--port", str(running.port))
        assert created.returncode == 0, created.stderr
        chromium = playwright.chromium.launch(executable_path=binary, args=QUIET)
        page = chromium.new_page(color_scheme="light", viewport={"width": 1100, "height": 640})
        for name, (panel, mark) in PANELS.items():
            page.goto(f"{running.url}/console#/{panel}")
            page.locator(mark).first.wait_for()
            page.wait_for_timeout(PLOTTED_MS if name == "overview" else 500)
            page.screenshot(path=FOLDER / f"console-{name}.png")
            print(f"docs/images/console-{name}.png")
        chromium.close()


if __name__ == "__main__":
    main()
