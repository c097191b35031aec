"""`guidsvc completion SHELL`: the script by which a shell completes commands and flags."""

import click
from click.shell_completion import get_completion_class

from guidsvc.cli import output
from guidsvc.cli.commands import COMPLETION_VARIABLE
from guidsvc.cli.parsing.command import Command
from guidsvc.cli.parsing.value_types import OneOf
from guidsvc.program import COMMAND

SHELLS = ("bash", "zsh", "fish")
_FILES = {
    "bash": 'bash: add  eval "$(guidsvc completion bash)"  to ~/.bashrc',
    "zsh": 'zsh:  add  eval "$(guidsvc completion zsh)"  to ~/.zshrc',
    "fish": "fish: guidsvc completion fish > ~/.config/fish/completions/guidsvc.fish",
}


@click.command(
    "completion",
    cls=Command,
    help="Print the script by which a shell completes the commands and flags of guidsvc.",
    notes="\n".join(_FILES.values()),
    examples=[f"completion {shell}" for shell in SHELLS],
)
@click.argument("shell", type=OneOf(SHELLS), metavar="bash|zsh|fish", help="the shell")
def completion(shell: str) -> None:
    """Print the script."""
    from guidsvc.cli.parsing.program import root

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"Click has no completion for {shell}")
    script = kind(root, {}, COMMAND, COMPLETION_VARIABLE).source()
    output.write(f"{script.rstrip()}\n")
