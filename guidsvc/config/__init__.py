"""The settings of the service: flags override environment variables, which override `.env`, which overrides defaults.

Each unknown or invalid setting stops the start with a line that names the setting and the accepted values. A variable
with the suffix _FILE names a file with the value, such as a secret in a container; the value is never shown.
"""

from guidsvc.config.env_file import Assignment
from guidsvc.config.loading import FILE_SUFFIX, env_file, load
from guidsvc.config.settings import ENV_FILE, FLAGS, LISTS, PREFIX, Settings, Size, flag, split_list
from guidsvc.config.validation import Check, load_valid

__all__ = [
    "ENV_FILE",
    "FILE_SUFFIX",
    "FLAGS",
    "LISTS",
    "PREFIX",
    "Assignment",
    "Check",
    "Settings",
    "Size",
    "env_file",
    "flag",
    "load",
    "load_valid",
    "split_list",
]
