"""Run guidsvc: `python pdapt.py`, `python pdapt.py --help`."""

import sys

from guidsvc import app, config, logs
from guidsvc.errors import StartError
from guidsvc.post import Post


def main() -> None:
    """Read the settings and serve; exit with one line if the service cannot start."""
    post = Post.inherited()
    try:
        settings = config.load()
        logs.configure(settings.log_level, settings.log_format, worker=None if post is None else post.slot)
        app.run(settings, post)
    except StartError as error:
        if post is not None:
            post.tell_failed(str(error))
            sys.exit(1)
        sys.exit(f"pdapt.py: {error}")
    except KeyboardInterrupt:  # a second Ctrl-C, for those who do not want to wait for the requests under way
        sys.exit(130)


if __name__ == "__main__":
    main()
