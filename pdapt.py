"""Run guidsvc: `python pdapt.py`, `python pdapt.py --help`; or make API keys: `python pdapt.py keys --help`."""

import sys

from guidsvc import app, config, keys_command, logs
from guidsvc.errors import StartError
from guidsvc.post import Post


def main() -> None:
    """Read the settings and serve, or do what is to be done with keys; exit with one line if that cannot be."""
    post = Post.inherited()
    try:
        if sys.argv[1:2] == [keys_command.NAME]:
            keys_command.run(sys.argv[2:], clock=app.system_clock)
            return
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
