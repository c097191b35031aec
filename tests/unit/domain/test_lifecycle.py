"""The life of a GUID."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidsvc.domain import guid_generator, lifecycle, selection
from guidsvc.domain.commands import ListQuery, PatchCommand, PutCommand
from guidsvc.domain.durations import Moment
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import MAX_TIME, Record
from guidsvc.errors import Expired, InvalidField, InvalidRequest, NotFound
from tests.support.factories import GUID, USER, record

NOW = 1_795_000_000_500
SECONDS = NOW // 1000
TERMS = RetentionPolicy(lifetime=30 * 86400, retention=7 * 86400)


def change(**members: object) -> PutCommand:
    """Make the change that a body of these members asks for."""
    return PutCommand.model_validate(members)


def patched(old: Record, **members: object) -> Record:
    """Apply the patch of these members to a record."""
    return lifecycle.patch(old, PatchCommand.model_validate(members), NOW, TERMS)


def test_record_is_live_until_the_millisecond_of_its_expiry() -> None:
    one = record(NOW, expire=1000)

    assert lifecycle.is_live(one, 999_999)
    assert not lifecycle.is_live(one, 1_000_000)


def test_live_record_is_served() -> None:
    assert lifecycle.require_live(GUID, live := record(NOW), NOW) is live


def test_unknown_guid_is_not_found() -> None:
    with pytest.raises(NotFound, match=GUID):
        lifecycle.require_live(GUID, None, NOW)


def test_expired_record_reports_expiry_and_end_of_renewal() -> None:
    with pytest.raises(Expired) as caught:
        lifecycle.require_live(GUID, record(NOW, expire=SECONDS - 5, purge_at=SECONDS + 5), NOW)

    assert caught.value.expired_at == SECONDS - 5
    assert caught.value.renewable_until == SECONDS + 5


def test_stored_record_past_retention_is_not_found() -> None:
    with pytest.raises(NotFound):
        lifecycle.require_live(GUID, record(NOW, expire=SECONDS - 5, purge_at=SECONDS), NOW)


def test_new_record_has_the_default_lifetime_without_an_expiry() -> None:
    new = lifecycle.create(GUID, change(user="x"), NOW, TERMS)

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
    new = lifecycle.create(GUID, change(user="x", expire=7, metadata={"a": 1}), NOW, TERMS)

    assert (new.expire, new.metadata) == (7, '{"a":1}')
    assert new.purge_at == SECONDS + 7 * 86400, "kept from its last update, where it was expired from the start"


def test_new_record_needs_a_user() -> None:
    with pytest.raises(InvalidRequest) as caught:
        lifecycle.create(GUID, change(expire=7), NOW, TERMS)
    assert caught.value.faults == (
        InvalidField("/user", 'is required to create a GUID, as in {"user": "Cylance, Inc."}'),
    )


def test_new_record_has_a_version_above_its_predecessor() -> None:
    assert lifecycle.create(GUID, change(user="x"), NOW, TERMS, after=NOW + 9).version == NOW + 10


def test_times_are_capped_at_the_end_of_9999() -> None:
    new = lifecycle.create(GUID, change(user="x", expire=MAX_TIME), NOW, TERMS)
    late = lifecycle.create(GUID, change(user="x"), MAX_TIME * 1000, TERMS)

    assert new.purge_at == MAX_TIME
    assert late.expire == MAX_TIME


def test_update_merges_given_members() -> None:
    old = record(NOW - 5000, metadata='{"a":1}')

    new = lifecycle.update(old, change(expire=SECONDS + 9), NOW, TERMS)

    assert new == old.model_copy(
        update={"expire": SECONDS + 9, "version": NOW, "updated": NOW, "purge_at": SECONDS + 9 + 7 * 86400}
    )


def test_update_replaces_metadata_and_empty_object_removes_it() -> None:
    old = record(NOW, metadata='{"a":1,"b":2}')

    assert lifecycle.update(old, change(metadata={"c": 3}), NOW, TERMS).metadata == '{"c":3}'
    assert lifecycle.update(old, change(metadata={}), NOW, TERMS).metadata is None


def test_update_without_change_keeps_the_record() -> None:
    old = record(NOW - 5000, metadata='{"a":1}')
    same = change(user=old.user, expire=str(old.expire), metadata={"a": 1})

    assert lifecycle.update(old, same, NOW, TERMS) is old
    assert lifecycle.update(old, change(), NOW, TERMS) is old


def test_metadata_of_another_number_type_is_a_change() -> None:
    assert lifecycle.update(record(NOW, metadata='{"a":1}'), change(metadata={"a": True}), NOW, TERMS).metadata == (
        '{"a":true}'
    )


def test_version_rises_with_a_stopped_or_reversed_clock() -> None:
    old = record(NOW)

    assert lifecycle.update(old, change(user="b"), NOW, TERMS).version == NOW + 1
    assert lifecycle.update(old, change(user="b"), NOW - 60_000, TERMS).version == NOW + 1


def test_update_renews_expired_record_for_default_lifetime() -> None:
    old = record(NOW - 6000, expire=SECONDS - 5)

    assert not lifecycle.is_revoked(old)
    assert lifecycle.update(old, change(user="b"), NOW, TERMS).expire == SECONDS + 30 * 86400
    assert lifecycle.update(old, change(), NOW, TERMS).expire == SECONDS + 30 * 86400


@pytest.mark.parametrize("written", [NOW - 6000, NOW])
def test_update_of_expired_record_uses_the_given_expiry(written: int) -> None:
    old = record(written, expire=SECONDS - 5)

    for renew in (lifecycle.update(old, change(expire=SECONDS + 1), NOW, TERMS), patched(old, expire=SECONDS + 1)):
        assert renew.expire == SECONDS + 1
        assert not lifecycle.is_revoked(renew)
    assert lifecycle.update(old, change(expire=SECONDS - 5), NOW, TERMS) is old
    assert patched(old, expire=SECONDS - 5) is old


def test_record_written_with_a_past_expiry_is_revoked() -> None:
    live = record(NOW - 6000)

    assert not lifecycle.is_revoked(live)
    for revoked in (
        lifecycle.update(live, change(expire=SECONDS), NOW, TERMS),
        patched(live, expire=0),
        lifecycle.create(GUID, change(user="x", expire=SECONDS), NOW, TERMS),
    ):
        assert lifecycle.is_revoked(revoked)
        assert lifecycle.is_revoked(lifecycle.update(revoked, change(expire=1, user="b"), NOW + 9, TERMS))
    assert not lifecycle.is_revoked(lifecycle.update(live, change(expire=SECONDS + 1), NOW, TERMS))


def test_expired_error_says_why_and_until_when() -> None:
    lived = record(NOW - 6000, expire=SECONDS - 5, purge_at=SECONDS + 5)
    created = lifecycle.create(GUID, change(user="x", expire=1_427_736_345), NOW, TERMS)
    revoked = lifecycle.update(record(NOW - 6000), change(expire=1_427_736_345), NOW, TERMS)
    again = lifecycle.update(created, change(expire=1), NOW + 1, TERMS)

    assert expired_message(lived).startswith(
        f"GUID {GUID} expired at 2026-11-18T11:06:35Z. To renew it, PUT it, or PATCH"
    )
    assert "at 2015-03-30T17:25:45Z (created with a past expiry)." in expired_message(created)
    assert "at 2015-03-30T17:25:45Z (revoked, or created with a past expiry)." in expired_message(revoked)
    assert "(revoked, or created with a past expiry)." in expired_message(again)
    assert expired_message(lived).endswith(f", before 2026-11-18T11:06:45Z (Unix time {SECONDS + 5}).")


def expired_message(old: Record) -> str:
    """Return what a reader of an expired record is told."""
    with pytest.raises(Expired) as caught:
        lifecycle.require_live(GUID, old, NOW)
    return str(caught.value)


@pytest.mark.parametrize("bad", [float("inf"), json.loads("[" * 40 + "]" * 40)])
def test_invalid_patch_has_the_same_error_whatever_is_stored(bad: object) -> None:
    """Else it would tell a caller that may not read what the size of the stored metadata is."""
    errors = set()
    for stored in (None, '{"a":1}', json.dumps({"b": "x" * 16_000})):
        with pytest.raises(InvalidRequest) as caught:
            patched(record(NOW, metadata=stored), metadata={"pad": "x" * 1000, "n": bad})
        errors.add(str(caught.value.faults))
    assert len(errors) == 1


@pytest.mark.parametrize("members", [{}, {"user": USER}, {"user": "b", "metadata": {"a": 1}}])
@pytest.mark.parametrize("expire", [0, SECONDS - 5, SECONDS])
def test_update_of_revoked_record_needs_an_expiry(expire: int, members: dict[str, object]) -> None:
    revoked = record(NOW, expire=expire)

    renewal = r'\(created with a past expiry\)\. To renew it, PUT or PATCH it with a future "expire"'
    with pytest.raises(Expired, match=renewal) as caught:
        lifecycle.update(revoked, change(**members), NOW + 60_000, TERMS)
    assert (caught.value.expired_at, caught.value.renewable_until) == (expire, revoked.purge_at)


@pytest.mark.parametrize("members", [{}, {"user": USER}, {"user": "b", "metadata": {"a": 1}}, {"metadata": None}])
@pytest.mark.parametrize(("written", "why"), [(NOW - 6000, "Z"), (NOW, "with a past expiry\\)")])
def test_patch_of_expired_record_needs_an_expiry(written: int, why: str, members: dict[str, object]) -> None:
    with pytest.raises(Expired, match=f'{why}\\. To renew it, .* with a future "expire"'):
        patched(record(written, expire=SECONDS - 5), **members)


def test_clock_behind_revives_no_revoked_record() -> None:
    revoked, behind = record(NOW, expire=SECONDS), NOW - 60_000

    with pytest.raises(Expired):
        lifecycle.update(revoked, change(user="b"), behind, TERMS)
    with pytest.raises(Expired):
        lifecycle.patch(revoked, PatchCommand.model_validate({"user": "b"}), behind, TERMS)


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
    now, each = SECONDS * 1000 + ms, record(NOW - 5000, expire=expire)
    bounds = {
        "expires_before": None if before is None else Moment(before, is_from_now=False),
        "expires_after": None if after is None else Moment(after - SECONDS, is_from_now=True),
    }
    query = ListQuery.model_construct(state=state, user=None, **bounds)  # type: ignore[arg-type]

    expected = (
        state in {"all", lifecycle.state_of(each, now)}
        and (before is None or expire < before)
        and (after is None or expire > after)
    )
    assert selection.selection(query, now).holds(each) == expected


def test_selection_never_holds_records_past_retention() -> None:
    each = record(NOW, expire=SECONDS, purge_at=SECONDS + 5)
    query = ListQuery(state="all")

    assert selection.selection(query, SECONDS * 1000 + 4999).holds(each)
    assert not selection.selection(query, SECONDS * 1000 + 5000).holds(each)
