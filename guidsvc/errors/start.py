"""Errors that stop a command before it begins."""

from guidsvc.errors.base import GuidsvcError


class StartError(GuidsvcError):
    """The service cannot start with this configuration. The message is one line that says what to change."""


class NoStore(StartError):
    """No store exists at `location`, and the command must not create one."""

    def __init__(self, location: str) -> None:
        super().__init__(f"store_url: there is no store at {location}")
        self.location = location
