"""Run guidsvc: `python pdapt.py`, `python pdapt.py --help`."""

import sys

from guidsvc import app, config, logs
from guidsvc.errors import StartError


def main() -> None:
    """Read the settings and serve; exit with one line if the service cannot start."""
    try:
        settings = config.load()
        logs.configure(settings.log_level, settings.log_format)
        app.run(settings)
    except StartError as error:
        sys.exit(f"pdapt.py: {error}")
    except KeyboardInterrupt:  # a second Ctrl-C, for those who do not want to wait for the requests under way
        sys.exit(130)


if __name__ == "__main__":
    main()
