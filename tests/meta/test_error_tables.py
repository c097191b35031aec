"""Tables by error class are looked up along the bases of a class, so that every subclass has a row."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import guidsvc
from guidsvc import errors
from guidsvc.api.contract import problems
from guidsvc.auth import audit_log as audit
from guidsvc.auth.audit_log import AuditLog
from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.caller import Caller
from guidsvc.domain.record import Record
from guidsvc.errors import Forbidden, GuidsvcError, Unauthorized, found_by_class
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import GUID, record

LOOKUPS: Mapping[str, Callable[[type[Any]], object]] = {
    "guidsvc.auth.audit_log._REASONS": audit.reason_of,
    "guidsvc.api.contract.problems.TABLE": problems.kind_of,
}
"""The lookup function of each table."""
BY_EXACT_TYPE = {"store/mongo/documents.py", "api/request_log.py"}
"""Files that look up objects other than errors by their exact type."""
MODULES = [
    importlib.import_module(module_info.name)
    for module_info in pkgutil.walk_packages(guidsvc.__path__, "guidsvc.")
    if module_info.name
]


def tables() -> Iterator[tuple[str, Mapping[type[BaseException], object]]]:
    """Yield each table of the package whose keys are classes of errors, by where it is defined."""
    for module in MODULES:
        source = ast.parse(inspect.getsource(module))
        defined = {
            target.id
            for node in source.body
            for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
            if isinstance(target, ast.Name)
        }
        for name, value in vars(module).items():
            is_table = name in defined and isinstance(value, Mapping) and value
            if is_table and all(inspect.isclass(key) and issubclass(key, BaseException) for key in value):
                yield f"{module.__name__}.{name}", value


def subclasses(error: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yield a class and all classes below it."""
    yield error
    for subclass in error.__subclasses__():
        yield from subclasses(subclass)


def test_every_table_is_listed_here() -> None:
    assert {name for name, _ in tables()} == LOOKUPS.keys()


@pytest.mark.parametrize("name", LOOKUPS)
def test_subclass_has_the_row_of_its_nearest_base(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    table = getattr(importlib.import_module(module), attribute)
    for row, value in table.items():
        subclass = type("Below", (row,), {})
        assert LOOKUPS[name](subclass) == value
        for descendant in subclasses(row):
            nearest = next(base for base in descendant.__mro__ if base in table)
            assert LOOKUPS[name](descendant) == table[nearest]
    for error in subclasses(GuidsvcError):
        LOOKUPS[name](error)  # raises nothing, whatever the error


def test_tables_are_not_looked_up_by_exact_type() -> None:
    root = Path(guidsvc.__file__).parent
    files = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Subscript) and _is_type_of(node.slice))
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        and node.args and _is_type_of(node.args[0]))
    }  # fmt: skip
    assert files == BY_EXACT_TYPE


def _is_type_of(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def drawn_parents(text: str) -> dict[str, str]:
    """Return the parent of each class in a drawn tree."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for indent, name in re.findall(r"^ {4}((?:[│├└─ ]{4})*)(\w+)", text, re.MULTILINE):
        path[len(indent) // 4 :] = [name]
        if len(path) > 1:
            parents[name] = path[-2]
    return parents


def test_error_tree_in_the_docstring_matches_the_classes() -> None:
    drawn = drawn_parents(str(errors.__doc__))
    assert drawn == {
        error.__name__: error.__base__.__name__
        for error in subclasses(GuidsvcError)
        if error.__base__ is not None
        and error is not GuidsvcError
        and error.__module__.startswith(f"{errors.__name__}.")
    }


def test_error_without_row_has_no_value() -> None:
    assert found_by_class({Forbidden: 1}, Unauthorized) is None


ALICE = Caller("alice", frozenset(), "key:a")


@pytest.mark.parametrize("kind", sorted({*subclasses(GuidsvcError)}, key=str))
def test_every_error_can_be_logged_as_a_rejection(kind: type[GuidsvcError], clock: FakeClock) -> None:
    lines: list[bytes] = []
    error = Forbidden("read") if kind is Forbidden else kind.__new__(kind)
    AuditLog(_FakeWriter(lines.append), clock=clock).denied(error, None)
    assert len(lines) == 1


@pytest.mark.parametrize(
    "fault", [OSError("full"), RuntimeError("a fault"), KeyError(1), UnicodeEncodeError("a", "b", 0, 1, "c")]
)
def test_audit_log_fault_does_not_change_the_response(
    fault: Exception, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("audit line not written", "audit log unavailable")

    def fail(_: bytes) -> None:
        raise fault

    log = AuditLog(_FakeWriter(fail), clock=clock)
    log.changed("create", record(clock()), ALICE, "done")
    log.key_changed("create", ApiKey.model_construct(id="a", owner="b"), ALICE, "done")
    log.denied(Unauthorized("?", invalid=True), None)
    log.changed("create", Record.model_construct(guid=GUID, version=1, owner=object()), ALICE, "done")
    assert log._metrics.failures == 4


class _FakeWriter:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, line: bytes) -> None:
        self._write(line)
