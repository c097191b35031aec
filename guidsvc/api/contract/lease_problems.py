"""Schemas of the problems of leases, for the OpenAPI document."""

from typing import Annotated

from pydantic import Field

from guidsvc.api.contract.schemas import Problem
from guidsvc.domain.commands import optional_field

_Digits = Annotated[str, Field(pattern="^[0-9]+$")]


class Limited(Problem):
    """A problem with the latest expiry that a write may set, and that of the record, in Unix seconds."""

    max_expire: _Digits | None
    expire: _Digits | None = optional_field("The expiry of the record.")


class TooSoon(Problem):
    """A problem with the expiry, in Unix seconds, the seconds that are left, and those that the read demands."""

    expire: _Digits
    left: _Digits
    valid_for: _Digits


PROBLEMS: dict[str, type[Problem]] = {"life-limit": Limited, "expires-too-soon": TooSoon}
"""The schemas of these problems, by code."""
