"""Reading a query: from its parameters to a model, or to the list of all that is wrong with them."""

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from tornado.httputil import HTTPServerRequest, ParseBodyConfig, ParseUrlEncodedConfig, set_parse_body_config

from guidsvc.api.parsing.body import MAX_NAME, message
from guidsvc.errors import InvalidField, InvalidRequest

MAX_PARAMETERS = 64
"""Parameters of a query. No operation knows as many; of more, the errors would be longer than the request."""
MAX_PARSED = 256
"""Parameters of a query on any path. A request with more is refused before it is parsed: that takes milliseconds."""
_WORDS = {"extra_forbidden": "is not a query parameter that is known here"}
_Query = TypeVar("_Query", bound=BaseModel)


def parse(arguments: Mapping[str, Sequence[bytes]], model: type[_Query]) -> _Query:
    """Return the model that the parameters make; InvalidRequest with all that is wrong, by the parameter's name.

    Tornado hands names over as Latin-1, and values as bytes; both are UTF-8.
    """
    count = sum(map(len, arguments.values()))
    if count > MAX_PARAMETERS:
        raise InvalidRequest(InvalidField("", f"the query has {count} parameters; send at most {MAX_PARAMETERS}"))
    named = {_name(name): values for name, values in arguments.items()}
    twice = [name for name, values in named.items() if len(values) > 1]
    if twice:
        raise InvalidRequest(*(InvalidField("", "is given more than once", parameter=name) for name in sorted(twice)))
    texts = {name: _text(values[0]) for name, values in named.items()}
    if strange := [name for name, text in texts.items() if text is None]:
        raise InvalidRequest(*(InvalidField("", "is not UTF-8", parameter=name) for name in strange))
    try:
        return model.model_validate(texts)
    except ValidationError as error:
        raise InvalidRequest(*(_fault(detail) for detail in error.errors(include_url=False))) from error


def bound_parsing() -> None:
    """Have Tornado refuse requests with more than MAX_PARSED parameters. It has one such setting for the process."""
    set_parse_body_config(ParseBodyConfig(urlencoded=ParseUrlEncodedConfig(max_arguments=MAX_PARSED)))


def link_to_next(request: HTTPServerRequest, cursor: str) -> str:
    """Return the header Link that leads from a page of a list to the next, which begins at a cursor."""
    given = {name: values[0] for name, values in request.query_arguments.items()}
    return f'<{request.path}?{urlencode(given | {"cursor": cursor}, encoding="latin-1")}>; rel="next"'


def _name(given: str) -> str:
    return given.encode("latin-1").decode("utf-8", "replace")[:MAX_NAME]


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _fault(error: ErrorDetails) -> InvalidField:
    return InvalidField("", message(error, _WORDS), parameter=str(error["loc"][0]))
