"""A time limit for blocking work. The work runs on a thread, which is abandoned after the limit."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

_Result = TypeVar("_Result")


class TimeLimitExceeded(TimeoutError):
    """The work was not done in time. A TimeoutError of another class comes from the work itself."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no result within {seconds:g} s")
        self.seconds = seconds


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Return the result of the work. Raise TimeLimitExceeded if it takes longer; its thread ends with the process."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised again by the waiting thread
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    done, _ = wait([future], seconds)
    if not done:
        raise TimeLimitExceeded(seconds)
    return future.result()
