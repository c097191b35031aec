"""Parsing and validation of query strings: from parameters to a model, or to InvalidRequest with every fault."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError
from tornado.httputil import ParseBodyConfig, ParseUrlEncodedConfig, set_parse_body_config

from guidsvc.api.parsing.validation_errors import MAX_NAME, Source, query_faults
from guidsvc.errors import InvalidField, InvalidRequest

MAX_PARAMETERS = 32
"""Maximum number of query parameters, far above that of any model. With more, errors would be longer than requests."""
MAX_PARSED = 64
"""Maximum number of query parameters on any path. Parsing 256 takes 0.8 ms, so more than these are rejected."""
MAX_VALUE_BYTES = 1024
"""Maximum size of the value of a parameter, in UTF-8: a user of 256 characters takes no more. Values with leading zeros
could be longer. The URL of the next page repeats the values, and a proxy rejects responses with a large head."""
_Query = TypeVar("_Query", bound=BaseModel)


def parse(arguments: Mapping[str, Sequence[bytes]], model: type[_Query], method: str = "") -> _Query:
    """Validate query parameters as the model; InvalidRequest with every fault, by parameter name.

    Tornado decodes names as Latin-1 and leaves values as bytes; both are UTF-8.
    """
    count = sum(map(len, arguments.values()))
    if count > MAX_PARAMETERS:
        detail = f"the query has {count} parameters; send at most {MAX_PARAMETERS}"
        raise InvalidRequest(InvalidField("", detail, is_clause=True))
    decoded = {_name(name): values for name, values in arguments.items()}
    repeats = [name for name, values in decoded.items() if len(values) > 1]
    if repeats:
        raise InvalidRequest(
            *(InvalidField("", "is given more than once; send it once", parameter=name) for name in sorted(repeats))
        )
    texts = {name: _text(values[0]) for name, values in decoded.items()}
    if undecodable := [name for name, text in texts.items() if text is None]:
        raise InvalidRequest(*(InvalidField("", "is not valid UTF-8", parameter=name) for name in undecodable))
    try:
        query = model.model_validate(texts)
    except ValidationError as error:
        raise InvalidRequest(*query_faults(error, Source(model, texts, "query parameter", method))) from error
    _require_short({name: len(values[0]) for name, values in decoded.items()})
    return query


def _require_short(sizes: Mapping[str, int]) -> None:
    """Raise InvalidRequest if the value of a parameter is too large, although it is valid."""
    faults = [
        InvalidField("", f"has {size} bytes; send at most {MAX_VALUE_BYTES}", parameter=name)
        for name, size in sizes.items()
        if size > MAX_VALUE_BYTES
    ]
    if faults:
        raise InvalidRequest(*faults)


def bound_parsing() -> None:
    """Make Tornado reject requests with more than MAX_PARSED parameters. The setting is global to the process."""
    set_parse_body_config(ParseBodyConfig(urlencoded=ParseUrlEncodedConfig(max_arguments=MAX_PARSED)))


class Target(Protocol):
    """The target of a request."""

    @property
    def path(self) -> str:
        """The path."""

    @property
    def query_arguments(self) -> Mapping[str, Sequence[bytes]]:
        """The parameters of the query, as Tornado has them."""


def link_to_next(request: Target, cursor: str, *, without: str = "") -> str:
    """Return the Link header of a list page, with the URL of the next page. `without` is a parameter to leave out."""
    return f'<{url_of_next(request, cursor, without=without)}>; rel="next"'


def url_of_next(request: Target, cursor: str, *, without: str = "") -> str:
    """Return the path and query of the next page of a list, which begins at the cursor."""
    if not request.query_arguments:
        return f"{request.path}?cursor={cursor}"
    return f"{request.path}?{query_with(request, **{without: None, 'cursor': cursor})}"


def query_with(request: Target, **changes: str | None) -> str:
    """Return the query of a request with some parameters set, and without those that are None."""
    parameters: dict[str, bytes | str | None] = {name: values[0] for name, values in request.query_arguments.items()}
    parameters |= changes
    return urlencode({name: value for name, value in parameters.items() if value is not None}, encoding="latin-1")


def _name(name: str) -> str:
    return name.encode("latin-1").decode("utf-8", "replace")[:MAX_NAME]


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
