"""Keys in a store: the exit codes of its errors, which are those of the same errors over HTTP."""

import pytest

from guidsvc.api.contract import problems
from guidsvc.cli.exit_codes import code_of_status
from guidsvc.cli.keys.store import exit_code
from guidsvc.errors import (
    Contention,
    CorruptRecord,
    GuidsvcError,
    KeyNotActive,
    NoSuchKey,
    OutcomeUnknown,
    StoreReadOnly,
    StoreUnavailable,
)

ERRORS = [
    (NoSuchKey("x"), 3),
    (KeyNotActive("4rGcVd0Xq2Lb", "revoked"), 4),
    (StoreUnavailable("x"), 6),
    (StoreReadOnly("x"), 6),
    (Contention("x"), 6),
    (OutcomeUnknown("x"), 7),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_error_of_the_store_has_the_code_of_its_status(error: GuidsvcError, code: int) -> None:
    status = next(problem.status for kind, problem in problems.TABLE.items() if kind in type(error).__mro__)

    assert exit_code(error) == code_of_status(status) == code


def test_other_errors_of_the_store_are_a_failure() -> None:
    assert exit_code(CorruptRecord("x")) == 1
