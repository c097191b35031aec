"""The files of `edit`: nobody else can read or plant them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from guidsvc.cli.remote.commands.drafts import Draft, new_draft, open_draft
from guidsvc_client import FullRecord
from tests.support.factories import GUID

RECORD = FullRecord(
    guid=GUID,
    expire=4_102_444_800,
    user="alice",
    metadata={"secret": 1},
    version=7,
    created=0,
    updated=0,
    purge_at=4_102_444_800,
    renew_at=None,
    max_expire=None,
    state="live",
    owner=None,
)


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which all users share."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def base_of(draft: Draft) -> Path:
    """Return the file with the record that a draft began with."""
    return draft.path.with_name(f"{draft.path.name}.base")


def test_draft_is_in_a_folder_that_only_the_user_enters(shared: Path) -> None:
    draft = new_draft(GUID, RECORD)
    (folder,) = shared.iterdir()

    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(folder.iterdir()) == [draft.path, base_of(draft)]
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600, 0o600]
    assert open_draft(draft.path, GUID) == draft


def test_discarded_draft_leaves_only_what_an_editor_has_left(shared: Path) -> None:
    first, second = new_draft(GUID, RECORD), new_draft(GUID, RECORD)
    backup = second.path.with_name("backup~")
    backup.touch()
    for draft in (first, second):
        draft.discard()

    assert list(shared.rglob("*")) == [backup.parent, backup]


def test_guid_of_a_response_names_no_file(shared: Path) -> None:
    draft = new_draft(GUID, replace(RECORD, guid="../../elsewhere"))

    assert draft.path.parent.parent == shared


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o640])
def test_record_is_not_written_where_others_may_read_it(mode: int) -> None:
    draft = new_draft(GUID, RECORD)
    base = base_of(draft)
    content = draft.path.read_text(), base.read_text()
    base.chmod(mode)
    with pytest.raises(PermissionError, match="other users may read or change"):
        draft.rebase(draft.path.read_text(), replace(RECORD, user="carol"))

    assert (draft.path.read_text(), base.read_text()) == content


def test_planted_record_beside_a_text_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "own.json"
    text.write_text('{"user": "bob"}')
    base = text.with_name("own.json.base")
    planted = json.dumps({"guid": GUID, "version": 9, "text": "{}"})

    assert open_draft(text, GUID).base is None
    os.mkfifo(base, 0o600)
    with pytest.raises(PermissionError):
        open_draft(text, GUID)
    base.unlink()
    base.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_draft(text, GUID)
    base.unlink()
    base.write_text(planted)
    base.chmod(0o666)
    with pytest.raises(PermissionError):
        open_draft(text, GUID)
    base.chmod(0o600)
    assert open_draft(text, GUID).base is not None
    other = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: other)
    with pytest.raises(PermissionError):
        open_draft(text, GUID)


def test_merged_record_replaces_the_one_before_whole() -> None:
    draft = new_draft(GUID, replace(RECORD, user="a" * 1000))
    draft.rebase(draft.path.read_text(), RECORD)
    merged = open_draft(draft.path, GUID)

    assert merged.base is not None
    assert json.loads(merged.base.text) == json.loads(draft.path.read_text())
