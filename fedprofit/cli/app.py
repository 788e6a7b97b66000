"""The application that the commands register with, and its console."""

from typing import Annotated

import typer

from fedprofit.core.terminal import Terminal

app = typer.Typer(
    name="fedprofit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Terminal()


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(f"fedprofit {version('fedprofit')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Measure what personalizing a federated prompt gains locally and loses globally."""
