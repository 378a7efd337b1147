"""``xpr completion``: the code by which a shell completes commands, ids, statuses and systems."""

from __future__ import annotations

import os
from pathlib import Path

import click

from expyre.errors import RequestError

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
def completion(shell: str | None) -> None:
    r"""Print the code that completes xpr in SHELL (default: yours).

    \b
    bash:  echo 'eval "$(xpr completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(xpr completion zsh)"' >> ~/.zshrc
    fish:  xpr completion fish > ~/.config/fish/completions/xpr.fish
    """
    from click.shell_completion import get_completion_class

    from expyre.cli.main import cli

    name = shell or _own_shell()
    completer = get_completion_class(name)
    if completer is None:
        raise RequestError(f"no completion for the shell {name!r}")
    click.echo(completer(cli, {}, "xpr", "_XPR_COMPLETE").source())


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in _SHELLS:
        raise RequestError(f"the shell {name!r} is not one of {', '.join(_SHELLS)}; name one")
    return name
