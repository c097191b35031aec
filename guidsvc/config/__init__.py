"""The settings of the service: flags override environment variables, which override `.env`, which overrides defaults.

An unknown or invalid setting stops the start with one line that names the setting and the accepted values. A variable
with the suffix _FILE names a file with the value, such as a secret in a container; the value is never shown.
"""

from guidsvc.config.loading import UsageError, load
from guidsvc.config.settings import PREFIX, Settings, Size, flag, split_list

__all__ = ["PREFIX", "Settings", "Size", "UsageError", "flag", "load", "split_list"]
