"""Large documents of operations are decoded operation by operation."""

import json
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from guidsvc.api.parsing import body
from guidsvc.api.resources.batch.handler import MAX_BYTES as MAX_BATCH_BYTES
from guidsvc.domain.commands import MAX_OPERATIONS, BatchOperation, PutCommand
from guidsvc.domain.record import MAX_METADATA_BYTES
from guidsvc.errors import InvalidRequest
from tests.support.open_requests import LARGE_DOCUMENT_BYTES, SMALL_DOCUMENT_BYTES

_TEXTS = st.sampled_from(["", "a", '"', "\\", '\\"', "[", "]}", "{", "\u2028", "[0]"]) | st.text(max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=12,
)
_DOCUMENTS = _VALUES | st.fixed_dictionaries({"operations": st.lists(_VALUES, max_size=5)}, optional={"x": _VALUES})


_NAMES = st.sampled_from(
    ['"a"', '"b"', '":"', '"\\u003a"', '"\\u003A"', '"\\\\u003a"', '"\\\\\\u003a"', '"\\""', '"u003a"']
)
_LEAVES = _NAMES | st.sampled_from(["1", "null", "true", "[]", "{}", "1e5", '"\\u00e9:"'])


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(_NAMES, inner).map(" : ".join), max_size=3).map(", ".join)
    return members.map("{{{}}}".format) | st.lists(inner, max_size=3).map(",".join).map("[{}]".format)


_MAYBE_TWICE = _containers(st.recursive(_LEAVES, _containers, max_leaves=12))
"""JSON texts in which objects may name a member twice."""


def names_a_member_twice(text: str) -> bool:
    """Whether an object in a text has a duplicate member, according to a parser that keeps all members."""
    has_duplicates: list[bool] = []
    json.loads(text, object_pairs_hook=lambda members: has_duplicates.append(len(dict(members)) < len(members)))
    return any(has_duplicates)


def outcome(decode: object, text: bytes) -> object:
    """Return the decoded text, or InvalidRequest if it is rejected."""
    assert callable(decode)
    try:
        return decode(text)
    except InvalidRequest:
        return InvalidRequest


def without_surplus(value: object) -> object:
    """Drop the values of members other than `operations`, which are rejected by their names anyway."""
    return {name: value[name] if name == "operations" else None for name in value} if isinstance(value, dict) else value


@pytest.mark.slow
@given(_DOCUMENTS, st.booleans())
def test_document_decoded_in_parts_equals_whole(document: object, is_indented: bool) -> None:
    text = json.dumps(document, indent=1 if is_indented else None).encode()
    if isinstance(document, list):
        return  # rejected, since it is not an object
    in_parts = body.decode_operations(text, MAX_OPERATIONS)
    assert without_surplus(in_parts) == without_surplus(body.decode(text))


@given(
    _DOCUMENTS, st.integers(0, 200), st.sampled_from([b"", b'"', b"]", b"}", b"[", b"{", b"\\", b",", b"\xff", b"1"])
)
def test_invalid_json_is_rejected_in_parts_too(document: object, position: int, inserted: bytes) -> None:
    valid_text = to_json({"operations": [document]})
    text = valid_text[:position] + inserted + valid_text[position + 1 :]
    expected = outcome(body.decode, text)
    decoded = outcome(lambda data: body.decode_operations(data, MAX_OPERATIONS), text)
    if not isinstance(expected, list):
        assert without_surplus(decoded) == without_surplus(expected)


def test_operations_are_decoded_in_parts_below_body_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other thread runs while a parser works."""
    metadata = {f"{number:x}": 1 for number in range(400)}
    text = to_json({"operations": [{"user": "a", "metadata": metadata}] * MAX_OPERATIONS})
    sizes, decode = [], body.decode

    def recorded_decode(part: bytes) -> object:
        sizes.append(len(part))
        return decode(part)

    monkeypatch.setattr(body, "decode", recorded_decode)
    assert body.decode_operations(text, MAX_OPERATIONS) == json.loads(text)
    assert len(text) > 2_900_000
    assert len(sizes) == MAX_OPERATIONS + 1
    assert max(sizes) < body.MAX_BYTES


def members() -> dict[str, int]:
    """Return an object with many members."""
    return {f"{number:x}": 1 for number in range(370_000)}


@pytest.mark.parametrize(
    ("build", "is_rejected"),
    [
        (lambda: {"operations": [members()]}, False),
        (lambda: members() | {"operations": []}, True),
        (lambda: {"operations": ["a"] * 10**6}, True),
    ],
    ids=["many members of an operation", "many members beside the operations", "many operations"],
)
def test_huge_body_is_rejected_before_decoding(build: Callable[[], object], is_rejected: bool) -> None:
    text = to_json(build())
    start = time.process_time()
    json.loads(text)
    decoding = time.process_time() - start
    start = time.process_time()
    try:
        result = body.decode_operations(text, MAX_OPERATIONS)["operations"][0]
    except InvalidRequest as error:
        result = error
        assert is_rejected
    assert time.process_time() - start < max(decoding, 0.2)  # while a parser works, no other thread runs
    assert isinstance(result, InvalidRequest)
    with pytest.raises(InvalidRequest, match="bytes"):
        body.validate(result, BatchOperation, {})


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b'{"operations":[{},{"a":1,"a":2}]}', "/operations/1"),
        (b'{"operations":[{},{"a":nan}]}', "/operations/1"),
        (b'{"operations":[{}],"operations":[{}]}', ""),
        (b'{"operations":[{},{},{}]}', "/operations"),
    ],
)
def test_error_names_the_place_of_the_fault(text: bytes, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body.decode_operations(text, 2)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


LARGEST = 4_190_000


def document_of(value: str) -> bytes:
    """Return a document of nearly 4 MiB: operations of nearly 64 KiB whose metadata repeats this value."""
    metadata = ",".join([value] * (60_000 // (len(value) + 1)))
    text = f'{{"user":"a","metadata":{{"a":[{metadata}]}}}}'
    return f'{{"operations":[{",".join([text] * (LARGEST // (len(text) + 1)))}]}}'.encode()


@pytest.mark.parametrize(
    "text",
    [
        *map(document_of, ["[]", "{}", "[[[[[[]]]]]]", '{"":0}', "[" * 90 + "]" * 90]),
        b"[" * LARGEST,
        b"]" * LARGEST,
        b'{"a":' * (LARGEST // 5),
        b"[" + b"[]," * (LARGEST // 3) + b"[]]",
        b'{"a":{"b":[' + b"[]," * (LARGEST // 3) + b"[]]}}",
    ],
    ids=lambda text: text[:5].decode() + str(len(text)),
)
def test_document_over_bracket_limit_is_rejected(text: bytes) -> None:
    start = time.process_time()
    with pytest.raises(InvalidRequest, match="objects and lists"):
        body.decode_operations(text, MAX_OPERATIONS)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "value",
    [
        *("0", "1.5", '""', '"ab"', r'"\n\"\u0101"', " " * 20_000 + "0"),
        *(f'"{text * 20_000}"' for text in (r"\\", r"\"", "[{", ",")),
    ],
    ids=lambda value: value[:12],
)
def test_large_document_is_decoded_in_little_time(value: str) -> None:
    text = document_of(value)
    start = time.process_time()
    assert body.decode_operations(text, MAX_OPERATIONS)["operations"]
    assert time.process_time() - start < 0.5


def repeated(value: str, count: int, size: int) -> str:
    """Return a document of about this size: operations whose metadata is a list of this value."""
    values = ",".join([value] * ((size // count - 32) // (len(value.encode()) + 1)))
    operation = f'{{"metadata":{{"a":[{values}]}}}}'
    return f'{{"operations":[{",".join([operation] * count)}]}}'


def with_objects(count: int, size: int) -> str:
    """Return a document of the largest values for their text, and nearly as many objects as are permitted."""
    objects = ",".join(['{"":0}'] * (48_000 // count - 2))
    numbers = ",".join(["-9"] * ((size // count - len(objects) - 32) // 3))
    operation = f'{{"metadata":{{"a":[{objects},{numbers}]}}}}'
    return f'{{"operations":[{",".join([operation] * count)}]}}'


def peak_bytes(decode: Callable[[bytes], object], text: str) -> int:
    """Return the memory of a decoded document, and of its decoding, without its text."""
    encoded = text.encode()
    tracemalloc.start()
    try:
        decode(encoded)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "document",
    [
        *(repeated(value, 280, MAX_BATCH_BYTES) for value in ("-9", "999", "1e9", "0", '"\u4e2d"')),
        repeated("-9", MAX_OPERATIONS, MAX_BATCH_BYTES - 40_000),
        with_objects(300, MAX_BATCH_BYTES),
    ],
    ids=["-9", "999", "1e9", "0", "text", "many operations", "objects"],
)
def test_decoded_large_document_takes_bounded_memory(document: str) -> None:
    assert 0.95 * MAX_BATCH_BYTES < len(document.encode()) <= MAX_BATCH_BYTES
    assert peak_bytes(partial(body.decode_operations, max_operations=MAX_OPERATIONS), document) < LARGE_DOCUMENT_BYTES


@pytest.mark.parametrize("value", ["[]", "{}", '{"":0}', "-9", "[[]]", '{"a":[]}', '"a"'])
def test_decoded_small_document_takes_bounded_memory(value: str) -> None:
    values = ",".join([value] * ((body.MAX_BYTES - 20) // (len(value) + 1)))
    assert peak_bytes(body.decode, f'{{"operations":[{values}]}}') < SMALL_DOCUMENT_BYTES


def test_brackets_in_strings_do_not_count() -> None:
    """A document may have 1,000 operations with 50 objects and lists each."""
    operation: dict[str, object] = {"a": "[{" * 1_000, "b": [[]] * 47}  # and itself, `b`, and the list of all
    document = {"operations": [operation] * MAX_OPERATIONS}
    assert body.decode_operations(to_json(document), MAX_OPERATIONS) == document
    operation["b"] = [[]] * 49
    with pytest.raises(InvalidRequest, match="over 50000 objects and lists"):
        body.decode_operations(to_json(document), MAX_OPERATIONS)


@given(_MAYBE_TWICE)
def test_duplicate_member_is_found_in_any_spelling(text: str) -> None:
    is_rejected = outcome(body.decode, text.encode()) is InvalidRequest
    assert is_rejected == names_a_member_twice(text)


@given(_MAYBE_TWICE)
def test_duplicate_member_is_found_in_long_body(text: str) -> None:
    is_rejected = outcome(body.decode, text.encode() + b" " * body.MAX_NAMED_BYTES) is InvalidRequest
    assert is_rejected == names_a_member_twice(text)


@pytest.mark.parametrize("part", ["[]", "{}", "1", '""', "[[]]", "123456789", "-1", "0.5"])
def test_metadata_up_to_size_limit_is_decoded(part: str) -> None:
    metadata = '{"a":[' + ",".join([part] * ((MAX_METADATA_BYTES - 8) // (len(part) + 1))) + "]}"
    assert len(metadata) <= MAX_METADATA_BYTES
    user = json.dumps('",[]{}:"' * 32)
    parsed = body.parse(f'{{"user":{user},"metadata":{metadata}}}'.encode(), PutCommand, {"guid": None})
    assert parsed.metadata == metadata.encode()


@pytest.mark.parametrize("part", ["[]", "{}", '""'])
def test_body_with_too_many_tokens_is_rejected_before_decoding(part: str) -> None:
    max_tokens = body.MAX_MARKS - 17  # the marks of the members, without one comma
    for size, expected_text in ((0, "compact JSON"), (1, "quotes, brackets, commas and colons")):
        metadata = ",".join([part] * (max_tokens // 3 + size))
        with pytest.raises(InvalidRequest) as caught:
            body.parse(b'{"user":"","metadata":{"a":[%b]}}' % metadata.encode(), PutCommand, {"guid": None})
        assert expected_text in str(caught.value)


def test_body_with_too_many_digits_is_rejected_before_decoding() -> None:
    integers, fractions = ",".join(["9" * 4000] * 5), ",".join(["0." + "9" * 4000] * 5)
    with pytest.raises(InvalidRequest, match="long integers with over"):
        body.parse(b'{"user":"a","metadata":{"a":[%b]}}' % integers.encode(), PutCommand, {"guid": None})
    body.parse(b'{"user":"a","metadata":{"a":[%b]}}' % fractions.encode(), PutCommand, {"guid": None})


def test_operation_with_too_many_tokens_is_rejected_alone() -> None:
    costly = b'{"user":"a","metadata":{"a":[%b]}}' % b",".join([b"[]"] * 10_000)
    decoded = body.decode_operations(b'{"operations":[{"user":"b"},%b]}' % costly, MAX_OPERATIONS)
    assert decoded["operations"][0] == {"user": "b"}
    with pytest.raises(InvalidRequest, match="brackets"):
        body.validate(decoded["operations"][1], BatchOperation, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is empty; send a JSON object"),
        (b" \r\n", "is empty; send a JSON object"),
        (rb'"\ud800"', "half of a surrogate pair"),
        (rb'{"user": "a\udc00"}', "half of a surrogate pair"),
        (rb'{"user": "\ud800\u0041"}', "half of a surrogate pair"),
        (b"1" * 4301, "over 4300 digits"),
        (b'{"expire": -' + b"1" * 4301 + b"}", "over 4300 digits"),
        (b"[" * 3000 + b"]" * 3000, "over 200 levels"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "over 200 levels"),
    ],
)
def test_json_over_a_limit_is_not_reported_as_invalid(text: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body.decode(text)
    (fault,) = caught.value.faults
    assert reason in fault.detail
    assert "not JSON" not in fault.detail


@pytest.mark.parametrize("text", [b"{", b"[1,]", b"NaN", rb'"\x"', rb'"\u12"', b'"\xff"', b"{'a': 1}"])
def test_invalid_json_is_reported_as_invalid(text: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body.decode(text)
    assert caught.value.faults[0].detail.startswith("is not JSON: ")


def test_body_with_200_levels_and_4300_digits_is_decoded() -> None:
    assert body.decode(b"[" * 200 + b"]" * 200)
    assert body.decode(b"1" * 4300)
