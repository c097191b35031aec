"""Run guidsvc: `python pdapt.py`, `python pdapt.py --help`; or one of its commands: `python pdapt.py keys --help`."""

import sys
from collections.abc import Callable, Mapping, Sequence

from guidsvc.errors import StartError
from guidsvc.post import Post


def _keys(words: Sequence[str]) -> None:
    from guidsvc import app, keys_command

    keys_command.run(words, clock=app.system_clock)


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "keys": _keys,
}
"""What to run for each first word, with the words after it. A command imports only what it needs."""


def _serve(post: Post | None) -> None:
    from guidsvc import app, config, logs

    settings = config.load()
    logs.configure(settings.log_level, settings.log_format, worker=None if post is None else post.slot)
    app.run(settings, post)


def main() -> None:
    """Run a command, or serve; exit with one line if that cannot be."""
    post = Post.inherited()
    try:
        command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
        if command is None:
            _serve(post)
        else:
            command(sys.argv[2:])
    except StartError as error:
        if post is not None:
            post.tell_failed(str(error))
            sys.exit(1)
        sys.exit(f"pdapt.py: {error}")
    except KeyboardInterrupt:  # a second Ctrl-C, for those who do not want to wait for the requests under way
        sys.exit(130)


if __name__ == "__main__":
    main()
