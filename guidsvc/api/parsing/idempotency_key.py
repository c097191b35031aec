"""Parsing of the header Idempotency-Key, and the fingerprint by which a repeated request is recognized."""

import re
from collections.abc import Callable, Sequence
from hashlib import sha256

from pydantic_core import to_json
from tornado.httputil import HTTPHeaders

from guidsvc.api.contract.headers import IDEMPOTENCY_KEY
from guidsvc.domain.caller import Caller
from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.services.idempotency import Request

MAX_CHARACTERS = 255
"""Maximum length of a key."""
_BARE = re.compile(r"[\x21\x23-\x7e]{1,255}")
# As in draft-ietf-httpapi-idempotency-key-header
_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_ENCLOSED = re.compile('".*"')
_ESCAPED = re.compile(r'\\(["\\])')


def parse(
    line: str,
    body: bytes,
    values_of: Callable[[str], list[str]],
    *,
    caller: Caller,
    queue_name: str,
    repeatable: bool,
) -> Request | None:
    """Return the key and fingerprint of a request, or None without a key; InvalidRequest if the key is malformed.

    `line` is its method and target, and `values_of` returns the values of a header, one for each time it is given.
    """
    keys = values_of(IDEMPOTENCY_KEY.name)
    if not keys:
        return None
    value = keys[0]
    quoted = _QUOTED.fullmatch(value)
    if len(keys) > 1 or not (quoted or _BARE.fullmatch(value)):
        raise InvalidRequest(InvalidField("", _fault(keys), header=IDEMPOTENCY_KEY.name))
    content = b"%b\n%b" % (line.encode("latin-1", "replace"), body)
    conditions = {"if": values_of("If-Match"), "unless": values_of("If-None-Match")}
    content += to_json(conditions) if any(conditions.values()) else b""
    return Request(
        caller=caller.owner,
        key=_ESCAPED.sub(r"\1", quoted[1]) if quoted else value,
        fingerprint=sha256(content).hexdigest(),
        repeatable=repeatable,
        authority=caller.authority,
        queue_name=queue_name,
    )


def _fault(keys: Sequence[str]) -> str:
    """Say why the values of the header are not one key. The values are not repeated."""
    if len(keys) > 1:
        return "is given more than once; send it once"
    if not keys[0]:
        return "is empty; send a new key, such as a UUID, for each new request"
    if len(keys[0]) > MAX_CHARACTERS + 2:
        return f"has {len(keys[0])} characters; send 1 to {MAX_CHARACTERS} printable ASCII characters"
    if re.fullmatch(r"[ -~]+", keys[0]) and not _ENCLOSED.fullmatch(keys[0]):
        if '"' in keys[0]:
            return 'contains a double quote; enclose the key in double quotes, and write \\" for it'
        if " " in keys[0]:
            return 'contains a space; enclose the key in double quotes, as in "a b"'
    return (
        f"must be 1 to {MAX_CHARACTERS} printable ASCII characters, such as a UUID; "
        'enclose it in "..." if it contains a space or a quote'
    )


def reject_key(headers: HTTPHeaders, detail: str) -> None:
    """Raise InvalidRequest with this detail if the request names a key, where none is accepted."""
    if IDEMPOTENCY_KEY.name in headers:
        raise InvalidRequest(InvalidField("", detail, header=IDEMPOTENCY_KEY.name))
