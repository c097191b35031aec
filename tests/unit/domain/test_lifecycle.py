"""The lifecycle of a GUID: create, update, patch, expire and revoke."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidsvc.domain import guid_generator, lifecycle, selection
from guidsvc.domain import record as record_module
from guidsvc.domain.commands import ListQuery, PatchCommand, PutCommand
from guidsvc.domain.durations import Moment
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import MAX_TIME, Record
from guidsvc.errors import Expired, InvalidField, InvalidRequest, NotFound
from tests.support.factories import GUID, USER, record

NOW = 1_795_000_000_500
SECONDS = NOW // 1000
POLICY = RetentionPolicy(lifetime=30 * 86400, retention=7 * 86400)


def put_command(**members: object) -> PutCommand:
    """Return a PUT command with these members."""
    return PutCommand.model_validate(members)


def patch(old: Record, **members: object) -> Record:
    """Apply a patch with these members to a record."""
    return lifecycle.patch(old, PatchCommand.model_validate(members), NOW, POLICY)


def test_record_is_live_until_the_millisecond_of_its_expiry() -> None:
    stored = record(NOW, expire=1000)

    assert lifecycle.is_live(stored, 999_999)
    assert not lifecycle.is_live(stored, 1_000_000)


def test_live_record_is_served() -> None:
    assert lifecycle.require_live(GUID, live := record(NOW), NOW) is live


def test_unknown_guid_is_not_found() -> None:
    with pytest.raises(NotFound, match=GUID):
        lifecycle.require_live(GUID, None, NOW)


def test_expired_record_reports_expiry_and_end_of_renewal() -> None:
    with pytest.raises(Expired) as error:
        lifecycle.require_live(GUID, record(NOW, expire=SECONDS - 5, purge_at=SECONDS + 5), NOW)

    assert error.value.expired_at == SECONDS - 5
    assert error.value.renewable_until == SECONDS + 5


def test_stored_record_past_retention_is_not_found() -> None:
    with pytest.raises(NotFound):
        lifecycle.require_live(GUID, record(NOW, expire=SECONDS - 5, purge_at=SECONDS), NOW)


def test_new_record_has_the_default_lifetime_without_an_expiry() -> None:
    new = lifecycle.create(GUID, put_command(user="x"), NOW, POLICY)

    assert new == Record(
        guid=GUID,
        user="x",
        expire=SECONDS + 30 * 86400,
        version=NOW,
        created=NOW,
        updated=NOW,
        purge_at=SECONDS + 37 * 86400,
    )


def test_new_record_has_the_given_members() -> None:
    new = lifecycle.create(GUID, put_command(user="x", expire=7, metadata={"a": 1}), NOW, POLICY)

    assert (new.expire, new.metadata) == (7, '{"a":1}')
    assert new.purge_at == SECONDS + 7 * 86400, (
        "retention counts from the last update if the record was created expired"
    )


def test_new_record_needs_a_user() -> None:
    with pytest.raises(InvalidRequest) as error:
        lifecycle.create(GUID, put_command(expire=7), NOW, POLICY)
    assert error.value.faults == (
        InvalidField("/user", 'is required to create a GUID, as in {"user": "Cylance, Inc."}'),
    )


def test_new_record_has_a_version_above_its_predecessor() -> None:
    assert lifecycle.create(GUID, put_command(user="x"), NOW, POLICY, after=NOW + 9).version == NOW + 10


def test_times_are_capped_at_the_end_of_9999() -> None:
    new = lifecycle.create(GUID, put_command(user="x", expire=MAX_TIME), NOW, POLICY)
    last = lifecycle.create(GUID, put_command(user="x"), MAX_TIME * 1000, POLICY)

    assert new.purge_at == MAX_TIME
    assert last.expire == MAX_TIME


def test_update_merges_given_members() -> None:
    old = record(NOW - 5000, metadata='{"a":1}')

    new = lifecycle.update(old, put_command(expire=SECONDS + 9), NOW, POLICY)

    assert new == old.model_copy(
        update={"expire": SECONDS + 9, "version": NOW, "updated": NOW, "purge_at": SECONDS + 9 + 7 * 86400}
    )


def test_update_replaces_metadata_and_empty_object_removes_it() -> None:
    old = record(NOW, metadata='{"a":1,"b":2}')

    assert lifecycle.update(old, put_command(metadata={"c": 3}), NOW, POLICY).metadata == '{"c":3}'
    assert lifecycle.update(old, put_command(metadata={}), NOW, POLICY).metadata is None


def test_update_without_change_keeps_the_record() -> None:
    old = record(NOW - 5000, metadata='{"a":1}')
    same = put_command(user=old.user, expire=str(old.expire), metadata={"a": 1})

    assert lifecycle.update(old, same, NOW, POLICY) is old
    assert lifecycle.update(old, put_command(), NOW, POLICY) is old


def test_metadata_of_another_number_type_is_a_change() -> None:
    assert lifecycle.update(
        record(NOW, metadata='{"a":1}'), put_command(metadata={"a": True}), NOW, POLICY
    ).metadata == ('{"a":true}')


@pytest.mark.parametrize("change", ["create", "update", "update metadata", "patch", "extend", "touch"])
def test_change_decodes_no_metadata_that_it_leaves_alone(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what its command has rendered: 16 KiB take up to half a millisecond, in which no other request runs."""
    old, new_user = record(NOW - 5000, metadata='{"a":[[],[]]}'), put_command(user="b")
    whole = put_command(user="b", metadata={"b": [[], []]})
    decoded: list[str] = []

    def decode(text: str, **_: object) -> object:
        decoded.append(text)
        return json.loads(text)

    monkeypatch.setattr(record_module, "from_json", decode)
    monkeypatch.setattr(lifecycle, "from_json", decode)
    new = {
        "create": lambda: lifecycle.create(GUID, whole, NOW, POLICY),
        "update": lambda: lifecycle.update(old, new_user, NOW, POLICY),
        "update metadata": lambda: lifecycle.update(old, whole, NOW, POLICY),
        "patch": lambda: patch(old, user="b"),
        "extend": lambda: lifecycle.extend(old, old.expire + 1, NOW, POLICY),
        "touch": lambda: lifecycle.touch(old, old, NOW, POLICY),
    }[change]()

    assert new.version == NOW
    assert new.metadata == ('{"b":[[],[]]}' if change in {"create", "update metadata"} else old.metadata)
    assert not decoded


@given(
    stored=st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()),
    merged=st.dictionaries(st.text(), st.recursive(st.none() | st.floats() | st.text(), st.lists)),
)
def test_record_of_every_accepted_patch_is_valid(stored: dict[str, object], merged: dict[str, object]) -> None:
    """Although the text of its metadata is not validated again."""
    old = record(NOW, metadata=None)
    try:
        old = patch(old, metadata=stored)
        new = patch(old, metadata=merged, user="b")
    except InvalidRequest:
        return
    assert Record.model_validate(new.model_dump()) == new


def test_version_rises_with_a_stopped_or_reversed_clock() -> None:
    old = record(NOW)

    assert lifecycle.update(old, put_command(user="b"), NOW, POLICY).version == NOW + 1
    assert lifecycle.update(old, put_command(user="b"), NOW - 60_000, POLICY).version == NOW + 1


@pytest.mark.parametrize("ahead_ms", [0, 1, 999, 1000, 90_500])
@pytest.mark.parametrize("change", ["create", "update", "revoke", "delete"])
def test_record_is_kept_until_its_version_has_passed(change: str, ahead_ms: int) -> None:
    """The GUID may be created again at `purge_at`, with that time as its version."""
    old, policy = record(NOW, version=NOW + ahead_ms), RetentionPolicy(lifetime=1, retention=0)
    new = {
        "create": lambda: lifecycle.create(
            GUID, put_command(user="x", expire=SECONDS + 1), NOW, policy, after=old.version
        ),
        "update": lambda: lifecycle.update(old, put_command(user="x", expire=SECONDS + 1), NOW, policy),
        "revoke": lambda: lifecycle.update(old, put_command(expire=0), NOW, policy),
        "delete": lambda: lifecycle.delete(old, NOW),
    }[change]()

    assert new.version == old.version + 1
    assert new.purge_at * 1000 > new.version


def test_update_renews_expired_record_for_default_lifetime() -> None:
    old = record(NOW - 6000, expire=SECONDS - 5)

    assert not lifecycle.is_revoked(old)
    assert lifecycle.update(old, put_command(user="b"), NOW, POLICY).expire == SECONDS + 30 * 86400
    assert lifecycle.update(old, put_command(), NOW, POLICY).expire == SECONDS + 30 * 86400


@pytest.mark.parametrize("written_at", [NOW - 6000, NOW])
def test_update_of_expired_record_uses_the_given_expiry(written_at: int) -> None:
    old = record(written_at, expire=SECONDS - 5)

    for renew in (lifecycle.update(old, put_command(expire=SECONDS + 1), NOW, POLICY), patch(old, expire=SECONDS + 1)):
        assert renew.expire == SECONDS + 1
        assert not lifecycle.is_revoked(renew)
    assert lifecycle.update(old, put_command(expire=SECONDS - 5), NOW, POLICY) is old
    assert patch(old, expire=SECONDS - 5) is old


def test_record_written_with_a_past_expiry_is_revoked() -> None:
    live = record(NOW - 6000)

    assert not lifecycle.is_revoked(live)
    for revoked in (
        lifecycle.update(live, put_command(expire=SECONDS), NOW, POLICY),
        patch(live, expire=0),
        lifecycle.create(GUID, put_command(user="x", expire=SECONDS), NOW, POLICY),
    ):
        assert lifecycle.is_revoked(revoked)
        assert lifecycle.is_revoked(lifecycle.update(revoked, put_command(expire=1, user="b"), NOW + 9, POLICY))
    assert not lifecycle.is_revoked(lifecycle.update(live, put_command(expire=SECONDS + 1), NOW, POLICY))


def test_expired_error_says_why_and_until_when() -> None:
    expired = record(NOW - 6000, expire=SECONDS - 5, purge_at=SECONDS + 5)
    created = lifecycle.create(GUID, put_command(user="x", expire=1_427_736_345), NOW, POLICY)
    revoked = lifecycle.update(record(NOW - 6000), put_command(expire=1_427_736_345), NOW, POLICY)
    updated = lifecycle.update(created, put_command(expire=1), NOW + 1, POLICY)

    assert expired_message(expired).startswith(
        f"GUID {GUID} expired at 2026-11-18T11:06:35Z. To renew it, PUT it, or PATCH"
    )
    assert "at 2015-03-30T17:25:45Z (created with a past expiry)." in expired_message(created)
    assert "at 2015-03-30T17:25:45Z (revoked, or created with a past expiry)." in expired_message(revoked)
    assert "(revoked, or created with a past expiry)." in expired_message(updated)
    assert expired_message(expired).endswith(f", before 2026-11-18T11:06:45Z (Unix time {SECONDS + 5}).")


def expired_message(old: Record) -> str:
    """Return the message of the error for an expired record."""
    with pytest.raises(Expired) as error:
        lifecycle.require_live(GUID, old, NOW)
    return str(error.value)


@pytest.mark.parametrize("invalid", [float("inf"), json.loads("[" * 40 + "]" * 40)])
def test_error_of_an_invalid_patch_reveals_no_stored_data(invalid: object) -> None:
    """Otherwise the error would reveal the size of the stored metadata to a caller without read access."""
    errors = set()
    for stored in (None, '{"a":1}', json.dumps({"b": "x" * 16_000})):
        with pytest.raises(InvalidRequest) as error:
            patch(record(NOW, metadata=stored), metadata={"pad": "x" * 1000, "n": invalid})
        errors.add(str(error.value.faults))
    assert len(errors) == 1


@pytest.mark.parametrize("members", [{}, {"user": USER}, {"user": "b", "metadata": {"a": 1}}])
@pytest.mark.parametrize("expire", [0, SECONDS - 5, SECONDS])
def test_update_of_revoked_record_needs_an_expiry(expire: int, members: dict[str, object]) -> None:
    revoked = record(NOW, expire=expire)

    renewal = r'\(created with a past expiry\)\. To renew it, PUT or PATCH it with a future "expire"'
    with pytest.raises(Expired, match=renewal) as error:
        lifecycle.update(revoked, put_command(**members), NOW + 60_000, POLICY)
    assert (error.value.expired_at, error.value.renewable_until) == (expire, revoked.purge_at)


@pytest.mark.parametrize("members", [{}, {"user": USER}, {"user": "b", "metadata": {"a": 1}}, {"metadata": None}])
@pytest.mark.parametrize(("written_at", "reason"), [(NOW - 6000, "Z"), (NOW, "with a past expiry\\)")])
def test_patch_of_expired_record_needs_an_expiry(written_at: int, reason: str, members: dict[str, object]) -> None:
    with pytest.raises(Expired, match=f'{reason}\\. To renew it, .* with a future "expire"'):
        patch(record(written_at, expire=SECONDS - 5), **members)


def test_clock_behind_revives_no_revoked_record() -> None:
    revoked, earlier = record(NOW, expire=SECONDS), NOW - 60_000

    with pytest.raises(Expired):
        lifecycle.update(revoked, put_command(user="b"), earlier, POLICY)
    with pytest.raises(Expired):
        lifecycle.patch(revoked, PatchCommand.model_validate({"user": "b"}), earlier, POLICY)


def test_version_4_guid_has_the_layout_of_the_rfc() -> None:
    assert guid_generator.guid_v4(NOW, bytes(16)) == "00000000000040008000000000000000"
    assert guid_generator.guid_v4(NOW, b"\xff" * 16) == "FFFFFFFFFFFF4FFFBFFFFFFFFFFFFFFF"


def test_version_7_guid_has_the_layout_of_the_rfc_example() -> None:
    # RFC 9562, A.6
    random = bytes(6) + bytes.fromhex("0CC3") + bytes.fromhex("18C4DC0C0C07398F")

    assert guid_generator.guid_v7(0x017F22E279B0, random) == "017F22E279B07CC398C4DC0C0C07398F"


@pytest.mark.parametrize("state", ["live", "expired", "all"])
@given(
    expire=st.integers(SECONDS - 3, SECONDS + 3),
    ms=st.integers(0, 999),
    before=st.none() | st.integers(SECONDS - 3, SECONDS + 3),
    after=st.none() | st.integers(SECONDS - 3, SECONDS + 3),
)
def test_selection_holds_what_the_query_asks_for(
    state: Literal["live", "expired", "all"], expire: int, ms: int, before: int | None, after: int | None
) -> None:
    now, candidate = SECONDS * 1000 + ms, record(NOW - 5000, expire=expire)
    bounds = {
        "expires_before": None if before is None else Moment(before, is_from_now=False),
        "expires_after": None if after is None else Moment(after - SECONDS, is_from_now=True),
    }
    query = ListQuery.model_construct(state=state, user=None, **bounds)  # type: ignore[arg-type]

    expected = (
        state in {"all", lifecycle.state_of(candidate, now)}
        and (before is None or expire < before)
        and (after is None or expire > after)
    )
    assert selection.selection(query, now).holds(candidate) == expected


def test_selection_never_holds_records_past_retention() -> None:
    candidate = record(NOW, expire=SECONDS, purge_at=SECONDS + 5)
    query = ListQuery(state="all")

    assert selection.selection(query, SECONDS * 1000 + 4999).holds(candidate)
    assert not selection.selection(query, SECONDS * 1000 + 5000).holds(candidate)
