"""Export saves what the list selects; import checks a file first, and can leave existing GUIDs alone."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.console.conftest import OpenConsole, call
from tests.support.backing_servers import Service
from tests.support.factories import GUID

pytestmark = pytest.mark.timeout(240)


def test_export_has_the_records_of_the_filter(console: OpenConsole, running: Service) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "wanted", "metadata": {"n": 12345678901234567890}})
    call(running, "PUT", f"/guid/{1:032X}", {"user": "other"})
    page = console(running, "guids?user=wanted")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Export 1").click()
    lines = Path(saving.value.path()).read_text().splitlines()

    assert [json.loads(line)["guid"] for line in lines] == [GUID]
    assert "12345678901234567890" in lines[0]


def test_import_checks_first_and_spares_existing_records(
    console: OpenConsole, running: Service, tmp_path: Path
) -> None:
    call(running, "PUT", f"/guid/{0:032X}", {"user": "here before"})
    lines = [{"guid": f"{number:032X}", "user": "imported"} for number in range(2500)]
    file = tmp_path / "guids.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"user": ""}\n')
    page = console(running, "guids")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File of lines, as Export makes it").set_input_files(file)
    page.get_by_role("button", name="Check the file").click()
    expect(page.get_by_text("2,499 GUIDs will be created")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("line 2501:")).to_be_visible()
    assert call(running, "GET", "/guid")["items"][0]["user"] == "here before"
    assert len(call(running, "GET", "/guid")["items"]) == 1, "nothing is imported yet"
    page.get_by_role("button", name="Import 2,499 GUIDs").click()
    expect(page.get_by_text("2,499 GUIDs created")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Close").click()

    expect(page.get_by_text("2,500 GUIDs")).to_be_visible()
    assert call(running, "GET", f"/guid/{0:032X}")["user"] == "here before"
