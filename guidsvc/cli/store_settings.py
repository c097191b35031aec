"""The settings of the commands that open the store themselves: `keys` and `backup`."""

from guidsvc import config
from guidsvc.config import Check, Settings
from guidsvc.store import validate_store_url

STORE_CHECK = Check(("store_url",), lambda settings: validate_store_url(settings.store_url))


def load_settings(store_url: str | None, check: Check = STORE_CHECK) -> Settings:
    """Return the settings, in which a `store_url` of the command line overrides that of the service.

    Raise InvalidSettings, which lists all faults, if any setting is invalid or no store can be opened by the URL.
    """
    return config.load_valid([] if store_url is None else [f"--store-url={store_url}"], [check])
