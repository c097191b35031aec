"""Merge patches as text: each has the effect of the decoded one, with the same errors, and takes little memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from guidsvc.api.parsing.body import parse
from guidsvc.domain import lifecycle
from guidsvc.domain.commands import PatchCommand
from guidsvc.domain.commands.merge_patch import UnfitPatch, least_bytes, merge
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import MAX_METADATA_BYTES, render_metadata
from guidsvc.errors import Expired, InvalidField, InvalidRequest
from tests.support.factories import GUID, record
from tests.support.json_values import JSON_OBJECTS, json_list, metadata_body

NOW = 1_795_000_000_000
POLICY = RetentionPolicy(lifetime=3600, retention=600)
TOO_LARGE = "after the merge with the stored metadata, it must be at most 16384 bytes of compact JSON"
TOO_DEEP = "must be at most 8 levels deep"


def patch_command(patch: str) -> PatchCommand:
    """Parse a body with this merge patch of the metadata, as a PATCH of GUID does."""
    return parse(metadata_body(patch).encode(), PatchCommand, {"guid": GUID})


CONFUSING = st.text('":nul\\{[,', max_size=8)
"""Texts that look like JSON."""
NUMBERS = json_list("1e15", 13_000)
"""Nearly four times as long once it is rendered again."""


def text_of(metadata: object) -> str | None:
    """Return metadata as a record has it."""
    rendered = render_metadata(metadata)
    return None if rendered is None else rendered.decode()


@given(stored=JSON_OBJECTS, patch=JSON_OBJECTS)
def test_patch_as_text_has_the_effect_of_the_decoded_one(stored: dict[str, object], patch: dict[str, object]) -> None:
    new = lifecycle.patch(
        record(NOW, metadata=text_of(stored)), PatchCommand.model_validate({"metadata": patch}), NOW, POLICY
    )
    assert new.metadata == text_of(merge(stored, patch))


@pytest.mark.parametrize("stored", [None, '{"a":1}', json.dumps({"b": "x" * 16_000})])
@pytest.mark.parametrize(
    ("patch", "detail"),
    [
        (f'{{"a":{json_list("{}", 5_500)}}}', TOO_LARGE),
        (f'{{"a":{NUMBERS}}}', TOO_LARGE),
        (f'{{"a":{NUMBERS},"b":null}}', TOO_LARGE),
        (f'{{"a":{json_list("null", 9_000)},"b":null}}', TOO_LARGE),
        (f'{{"a,":{NUMBERS},":null":2}}', TOO_LARGE),
        (f'{{"a":{NUMBERS},"b":{"[" * 8 + "]" * 8}}}', TOO_DEEP),
    ],
    ids=["objects", "numbers", "numbers and null", "null in a list", "strings like null", "numbers, too deep"],
)
def test_patch_that_fits_into_no_record_is_not_stored(stored: str | None, patch: str, detail: str) -> None:
    """It is rejected where any other is: after the checks of the record, and with the same words."""
    command = patch_command(patch)
    assert isinstance(command.metadata, UnfitPatch)
    with pytest.raises(InvalidRequest) as error:
        lifecycle.patch(record(NOW, metadata=stored), command, NOW, POLICY)
    assert error.value.faults == (InvalidField("/metadata", detail),)
    with pytest.raises(Expired):
        lifecycle.patch(record(NOW - 6000, expire=1), command, NOW, POLICY)


@given(
    st.recursive(
        st.none() | st.just(1) | CONFUSING,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CONFUSING, inner, max_size=4),
    ).map(lambda value: {"a": value, '":null': None})
)
def test_patch_is_never_taken_for_larger_than_it_is(patch: dict[str, object]) -> None:
    """Whatever is in its strings. Otherwise one that fits would be rejected."""
    assert least_bytes(to_json(patch)) <= len(to_json(merge({}, patch)))


def test_long_patch_that_removes_much_is_applied() -> None:
    names = [f"{number:08x}" for number in range(4_000)]
    stored = json.dumps(dict.fromkeys(names[:1_000], 1), separators=(",", ":"))
    command = patch_command(json.dumps(dict.fromkeys(names) | {"a": {"b": None}}))

    assert lifecycle.patch(record(NOW, metadata=stored), command, NOW, POLICY).metadata == '{"a":{}}'
    assert isinstance(command.metadata, bytes)
    assert len(command.metadata) > 3 * MAX_METADATA_BYTES
