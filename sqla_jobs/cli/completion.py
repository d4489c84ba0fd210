"""``sqla-jobs completion``: the script that lets a shell complete commands, options and states."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

PROGRAM: Final = "sqla-jobs"
_VARIABLE: Final = "_SQLA_JOBS_COMPLETE"
"""By which the script asks; click's own rule makes it of the program's name."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete what is typed behind sqla-jobs.

    For bash, in ~/.bashrc: eval "$(sqla-jobs completion bash)". For zsh the same in ~/.zshrc, behind
    compinit. For fish: sqla-jobs completion fish > ~/.config/fish/completions/sqla-jobs.fish.
    """
    made = get_completion_class(shell)
    assert made is not None, "the choice has only what click knows"
    click.echo(made(ctx.find_root().command, {}, PROGRAM, _VARIABLE).source())
