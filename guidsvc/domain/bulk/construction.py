"""Construction of models from valid members, without validation.

It does what `model_construct` of pydantic does, for many models at once. That method takes longer than validation.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, TypeVar

from pydantic import BaseModel

_Model = TypeVar("_Model", bound=BaseModel)
_SET = [
    vars(BaseModel)[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
]


def construct(model: type[_Model], members: Sequence[dict[str, Any]], names: Iterable[set[str]]) -> list[_Model]:
    """Return a model for each dict of all its members, which becomes its own, in the order of the fields.

    `names` are those that count as set, for each model; pass `repeat` if they are the same, and never change them.
    """
    new = model.__new__
    models = [new(model) for _ in members]
    columns: tuple[Iterable[Any], ...] = members, names, repeat(None), repeat(None)
    for put, values in zip(_SET, columns, strict=True):
        deque(map(put, models, values), maxlen=0)
    return models
