"""Export saves the filtered records. Import checks a file first, and can skip existing GUIDs."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.console.conftest import OpenConsole, call
from tests.browser.console.held_requests import HeldRequests
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


def test_selection_is_exported(console: OpenConsole, running: Service) -> None:
    number = 12345678901234567890
    call(running, "PUT", f"/guid/{GUID}", {"user": "wanted", "expire": "0", "metadata": {"n": number}})
    call(running, "PUT", f"/guid/{1:032X}", {"user": "other", "expire": "0"})
    page = console(running, "guids?state=expired")
    page.get_by_label(f"Select {GUID}").check()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Export the selection").click()
    expect(page.get_by_text("Exported 1 GUID to guids-")).to_be_visible()
    [line] = Path(saving.value.path()).read_text().splitlines()

    assert json.loads(line) == {"guid": GUID, "expire": "0", "user": "wanted", "metadata": {"n": number}}


def test_import_checks_first_and_skips_existing_records(console: OpenConsole, running: Service, tmp_path: Path) -> None:
    call(running, "PUT", f"/guid/{0:032X}", {"user": "here before"})
    lines = [{"guid": f"{number:032X}", "user": "imported"} for number in range(2500)]
    file = tmp_path / "guids.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"user": ""}\n')
    page = console(running, "guids")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File with one GUID per line, as Export writes it").set_input_files(file)
    page.get_by_role("button", name="Check the file").click()
    expect(page.get_by_text("2,499 GUIDs will be created")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("line 2501:")).to_be_visible()
    assert call(running, "GET", "/guid")["items"][0]["user"] == "here before"
    assert len(call(running, "GET", "/guid")["items"]) == 1, "nothing is imported yet"
    page.get_by_role("button", name="Import 2,499 GUIDs").click()
    expect(page.get_by_text("2,499 GUIDs created")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Close").click()

    expect(page.get_by_text("1\u201350 of 2,500 GUIDs")).to_be_visible()
    assert call(running, "GET", f"/guid/{0:032X}")["user"] == "here before"


def test_import_counts_lines_of_the_file_and_skips_guids(
    console: OpenConsole, running: Service, tmp_path: Path
) -> None:
    call(running, "PUT", f"/guid/{0:032X}", {"user": "here before"})
    file = tmp_path / "guids.ndjson"
    file.write_text(f'\n{{"guid": "{0:032X}", "user": "a"}}\n\n{{"user": ""}}\n')
    page = console(running, "guids")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File with one GUID per line").set_input_files(file)
    page.get_by_role("button", name="Check the file").click()
    dialog = page.get_by_role("dialog", name="The file has no GUID to import")
    expect(dialog).to_contain_text("1 line will be skipped, because the GUID exists already")

    expect(dialog).to_contain_text("line 4:")


def test_running_import_cannot_be_closed(console: OpenConsole, running: Service, tmp_path: Path) -> None:
    file = tmp_path / "guids.ndjson"
    file.write_text(f'{{"guid": "{GUID}", "user": "a"}}\n')
    page = console(running, "guids")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File with one GUID per line").set_input_files(file)
    page.get_by_role("button", name="Check the file").click()
    held_requests = HeldRequests()
    page.get_by_role("button", name="Import 1 GUID").wait_for()
    page.route("**/guid:batch", held_requests.hold)
    page.get_by_role("button", name="Import 1 GUID").click()
    dialog = page.get_by_role("dialog", name="Import 1 GUID?")
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_have_count(0)
    held_requests.first(page).continue_()

    expect(page.get_by_role("dialog", name="Imported")).to_contain_text("1 GUID created")


def test_import_rejects_lines_that_are_not_records(console: OpenConsole, running: Service, tmp_path: Path) -> None:
    call(running, "PUT", f"/guid/{GUID}", {"user": "here before"})
    created = f'{{"guid": "{1:032X}", "user": "{{op}}", "metadata": {{"op": "delete"}}}}'
    lines = [
        f'{{"op": "delete", "guid": "{GUID}"}}',
        f'{{"op": "put", "op": "delete", "guid": "{GUID}"}}',
        f'{{"\\u006fp": "delete", "guid": "{GUID}"}}',
        created,
        f'{{"guid": "{GUID}", "user": "a", "if_none_match": "\\"1\\"", "if_match": "*"}}',
        f'{{"guid": "{GUID}", "op": "delete", "n": NaN}}',
        '["op"]',
    ]
    file = tmp_path / "guids.ndjson"
    file.write_text("\n".join(lines) + "\n")
    sent: list[str | None] = []
    page = console(running, "guids")
    page.on("request", lambda request: sent.append(request.post_data) if request.url.count("guid:batch") else None)
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File with one GUID per line").set_input_files(file)
    page.get_by_label("Create only").uncheck()
    page.get_by_role("button", name="Check the file").click()
    dialog = page.get_by_role("dialog", name="Import 1 GUID?")
    expect(dialog).to_contain_text("6 lines will fail")
    for number in (1, 2, 3):
        expect(dialog).to_contain_text(f"line {number}: has op; remove it")
    expect(dialog).to_contain_text("line 5: has if_match, if_none_match; remove them")
    for number in (6, 7):
        expect(dialog).to_contain_text(f"line {number}: must be a JSON object")
    dialog.get_by_role("button", name="Import 1 GUID").click()
    expect(page.get_by_role("dialog", name="Imported")).to_contain_text("1 GUID created")

    assert sent == [f"{created}\n"] * 2
    assert call(running, "GET", f"/guid/{GUID}")["user"] == "here before"


def test_import_of_faulty_lines_alone_sends_nothing(console: OpenConsole, running: Service, tmp_path: Path) -> None:
    file = tmp_path / "guids.ndjson"
    file.write_text(f'{{"op": "delete", "guid": "{GUID}"}}\n')
    sent: list[str] = []
    page = console(running, "guids")
    page.on("request", lambda request: sent.append(request.url) if request.url.count("guid:batch") else None)
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File with one GUID per line").set_input_files(file)
    page.get_by_role("button", name="Check the file").click()
    expect(page.get_by_role("dialog", name="The file has no GUID to import")).to_contain_text("line 1: has op")

    assert sent == []
