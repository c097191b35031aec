"""Conversion of pydantic errors to faults for clients: the mistake, the remedy, and an example."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from guidsvc.api.parsing import suggestions, time_errors
from guidsvc.domain.api_key import MAX_OVERLAP_SECONDS
from guidsvc.domain.commands import MEMBERS as BODY_MEMBERS
from guidsvc.domain.commands.seconds import JSON_FORMS
from guidsvc.errors import InvalidField

MAX_NAME = 100
"""Maximum length of a name from the client that an error repeats, in characters."""
MAX_EXPLAINED = 4
"""Maximum number of unknown names that are compared with the known ones. Comparisons take time."""
_READ_ONLY = "is set by the service; remove it"
_WRITE_BACK = f"{_READ_ONLY}. Responses without view=full contain only members that can be sent back"
_TIMES = frozenset({"expire", "expires_before", "expires_after"})
_TIME_ERRORS = frozenset({"expire_type", "greater_than_equal", "less_than_equal"})
_CLAUSES = frozenset({"guid_form", "guid_missing", "surplus"})
"""Types of errors whose messages include their subject."""
_BODY_METHODS = frozenset({"PUT", "POST", "PATCH"})
_TAGS = frozenset({"if_match", "if_none_match"})
_CREATIONS = ("create", "insert", "add", "post")
"""Names that other APIs have for the operation `put`."""
_EXAMPLES = {"user": "Cylance, Inc.", "owner": "Cylance, Inc."}
"""Examples of members that are strings."""
_LISTS = {"scopes": '["read", "write"]'}
"""Examples of members that are lists."""
_SHOULD = re.compile(r"^[A-Z][a-z]+ should ")


class Source(NamedTuple):
    """What was validated: the model, the values as the client sent them, what one of them is called, and the method."""

    model: type[BaseModel]
    values: Mapping[str, Any]
    kind: str
    method: str = ""

    @property
    def known_names(self) -> Sequence[str]:
        """The names that the client may send."""
        return sorted(field.alias or name for name, field in self.model.model_fields.items())

    @property
    def example(self) -> str:
        """An example of the whole, or an empty string."""
        extra: Any = self.model.model_config.get("json_schema_extra")
        return json.dumps(extra["examples"][0]) if isinstance(extra, Mapping) else ""


def faults_of(error: ValidationError, source: Source) -> Iterator[tuple[ErrorDetails, str]]:
    """Yield each error, and the message for the client."""
    count = 0
    # An unknown name comes before a missing one, because it may be a misspelling of it.
    for each in sorted(error.errors(include_url=False), key=lambda each: each["type"] == "missing"):
        is_unknown = each["type"] == "extra_forbidden"
        count += is_unknown
        yield each, _unknown(each, source, count) if is_unknown else _invalid(each, source)


def unknown_name(name: str, kind: str, known: Sequence[str], count: int) -> str:
    """Return the message about an unknown name, the `count`-th of its request. Only the first are compared."""
    if count > MAX_EXPLAINED:
        return f"is not a known {kind}; remove it"
    return suggestions.unknown(name, kind, known)


def body_faults(error: ValidationError, source: Source) -> Iterator[InvalidField]:
    """Yield the faults of a body, each with its place."""
    for each, detail in faults_of(error, source):
        yield InvalidField(pointer(*each["loc"]), detail, is_clause=each["type"] in _CLAUSES)


def query_faults(error: ValidationError, source: Source) -> Iterator[InvalidField]:
    """Yield the faults of a query, each with the name of its parameter."""
    for each, detail in faults_of(error, source):
        yield InvalidField("", detail, parameter=str(each["loc"][0]), is_clause=each["type"] in _CLAUSES)


def pointer(*steps: str | int) -> str:
    """Return the JSON Pointer (RFC 6901) of these steps, each cut to MAX_NAME characters."""
    return "".join(f"/{str(step)[:MAX_NAME].replace('~', '~0').replace('/', '~1')}" for step in steps)


def _unknown(error: ErrorDetails, source: Source, count: int) -> str:
    name = str(error["loc"][-1])
    if name in getattr(source.model, "read_only", ()):
        return _WRITE_BACK if count == 1 else _READ_ONLY
    advice = getattr(source.model, "advice", {}).get(name.lower())
    if advice is not None:
        return f"is not a known {source.kind}{advice}"
    if source.kind == "query parameter" and count <= MAX_EXPLAINED and name in BODY_MEMBERS:
        place = "in the JSON body" if source.method in _BODY_METHODS else "in the JSON body of a PUT, POST or PATCH"
        return f"is not a query parameter of {source.method or 'this request'}; send it {place}"
    return unknown_name(name, source.kind, source.known_names, count)


def _invalid(error: ErrorDetails, source: Source) -> str:  # noqa: PLR0911  # a table
    """Return the message about an invalid value: for a type of error, or that of the validator."""
    name = str(error["loc"][0]) if error["loc"] else ""
    value = source.values.get(name)
    match error["type"]:
        case kind if name in _TIMES and kind in _TIME_ERRORS:
            return time_errors.explain(value)
        case "missing":
            return f"is required, as in {source.example}" if source.example else "is required"
        case "string_type" if name in _TAGS:
            return "must be a string: the `etag` of a result, or *"
        case "string_type":
            return "must be a string" + (f", such as {json.dumps(_EXAMPLES[name])}" if name in _EXAMPLES else "")
        case "literal_error":
            return _choice(error, name)
        case "metadata_type":
            return _metadata(value)
        case "seconds" if source.kind == "query parameter":
            return error["msg"].replace(JSON_FORMS, "")
        case "cursor_form" | "cursor_invalid" if value == "":
            return "is empty; send no cursor to begin at the start"
        case "cursor_form" if value in {"null", "None"}:
            return "must not be null: null means that there is no next page; send no cursor to begin again"
        case _:
            return _of_another_type(error, name, value)


def _of_another_type(error: ErrorDetails, name: str, value: object) -> str:
    """Return the message about a value that has another type, or whose size is out of its range."""
    match error["type"]:
        case "int_type" | "greater_than_equal" | "less_than_equal" if name == "overlap":
            return _overlap(value)
        case "bool_type":
            return "must be true or false, without quotes"
        case "list_type" if name in _LISTS:
            return f"must be a list, such as {_LISTS[name]}"
        case "too_short":
            return f"must have at least {error['ctx']['min_length']} item"
        case "too_long":
            return f"must have at most {error['ctx']['max_length']} items"
        case _:
            return _SHOULD.sub("must ", error["msg"])


def _overlap(value: object) -> str:
    """Say which integers an overlap may be, and which one was probably meant by a fraction or a string."""
    rule = f"must be a whole number of seconds, an integer from 0 to {MAX_OVERLAP_SECONDS}"
    try:
        seconds = ceil(value) if isinstance(value, float) else int(value) if isinstance(value, str) else -1
    except (ValueError, OverflowError):
        return rule
    return f"{rule}; did you mean {seconds}?" if 0 <= seconds <= MAX_OVERLAP_SECONDS else rule


def _choice(error: ErrorDetails, name: str) -> str:
    """Say which values a member or parameter has, and which of them was probably meant."""
    choices = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
    given, hint = error["input"], ""
    if name == "op" and given in _CREATIONS:
        hint = "to create a record, send `put`, or no `op`"
    elif isinstance(given, str) and len(choices) > 1:
        hint = suggestions.did_you_mean(given, choices)
    return "; ".join(filter(None, [f"must be {suggestions.enumerated(choices, 'or')}", hint]))


def _metadata(value: object) -> str:
    rule = 'must be a JSON object, such as {"env": "test"}'
    is_encoded = isinstance(value, str) and value[:100].lstrip().startswith("{")
    return f"{rule}, not a string that contains one" if is_encoded else rule
