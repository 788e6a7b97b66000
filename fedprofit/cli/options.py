"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fedprofit.evaluate.metric import known_metrics

ConfigFile = Annotated[Path, typer.Argument(help="A configuration (YAML); see configs/.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one value, e.g. training.rounds=3. Repeatable.")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder.  [default: runs/NAME-HASH]")]
MetricName = Annotated[
    str | None,
    typer.Option(help=f"One that was scored, as {', '.join(known_metrics())}.  [default: the first of them]"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print progress.")]


def accept_licence(accepted: bool) -> None:
    """Accept the licence terms of all models, in this process and its workers."""
    if accepted:
        os.environ["FEDPROFIT_ACCEPT_LICENCE"] = "all"


def load_plugin_files(files: list[Path] | None) -> None:
    """Load plug-in files before a configuration is read."""
    if files:
        from fedprofit.plugins import load_files

        load_files(files)


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        callback=load_plugin_files,
        is_eager=True,
        help="A Python file with methods, metrics or other components. Repeatable.",
        show_default=False,
    ),
]
AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-licence", callback=accept_licence, help="Accept the licence terms of a model."),
]
