"""The exit codes of the commands. docs/command-line-http.md has the table."""

from guidsvc.errors import StartError

OK, FAILED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, TRY_AGAIN, UNKNOWN = range(8)
_BY_STATUS = {
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: CONFLICT,
    410: NOT_FOUND,
    412: CONFLICT,
    429: TRY_AGAIN,
    503: TRY_AGAIN,
    504: UNKNOWN,
}


class CommandFailed(StartError):
    """A command that failed, with its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def code_of_status(status: int) -> int:
    """Return the exit code for a problem with this status."""
    return _BY_STATUS.get(status, FAILED)
