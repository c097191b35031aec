"""Imports of packages that only some settings need: the extras `mongo`, `redis`, `jwt` and `otel`."""

from collections.abc import Iterator
from contextlib import contextmanager

from guidsvc.errors import StartError
from guidsvc.program import install_command


@contextmanager
def requires_extra(name: str, setting: str) -> Iterator[None]:
    """Raise StartError if an import inside fails because this extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "guidsvc").startswith("guidsvc"):
            raise
        raise StartError(
            f"{setting}: the package {error.name} is not installed; {install_command(f'.[{name}]')}"
        ) from error
