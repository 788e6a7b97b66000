"""Commands that read results: report, claims, recommend and compare."""

from pathlib import Path
from typing import Annotated

import typer

from fedprofit.cli.app import app, console
from fedprofit.cli.options import MetricName, Plugins
from fedprofit.core.errors import UserError


@app.command(rich_help_panel="Read results")
def report(
    folder: Annotated[Path, typer.Argument(help="A run's or a study's folder.", show_default=False)],
    plugins: Plugins = None,
) -> None:
    """Print the tables; write the page (report.html), the picture and the tables again."""
    from fedprofit.report.write import write_report

    write_report(folder, console)


@app.command(rich_help_panel="Read results")
def claims(folder: Annotated[Path, typer.Argument(help="A study's folder.", show_default=False)]) -> None:
    """Test each of the paper's claims against a study's results."""
    from fedprofit.report.studies import write_claims

    write_claims(folder, console)


@app.command(rich_help_panel="Read results")
def recommend(
    folder: Annotated[Path, typer.Argument(help="A run's or a study's folder.", show_default=False)],
    max_forgetting: Annotated[
        float | None,
        typer.Option(
            help="Largest allowed drop in the global score; selects the best local score. Negative values "
            "require a gain."
        ),
    ] = None,
    min_local: Annotated[
        float | None, typer.Option(help="Smallest allowed local score; selects the least forgetting.")
    ] = None,
    metric: MetricName = None,
    plugins: Plugins = None,
) -> None:
    """Select a setting on the validation clients, and check it on the test clients."""
    from fedprofit.analyze.recommend import Limit
    from fedprofit.report.choices import write_recommendation

    write_recommendation(folder, metric, Limit(max_forgetting, min_local), console)


@app.command(rich_help_panel="Read results")
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Two or more runs or studies. The first is the reference.")
    ],
    metric: MetricName = None,
    out: Annotated[Path | None, typer.Option(help="Also write the tables here, as Markdown.")] = None,
) -> None:
    """Compare runs or studies client by client, with paired intervals."""
    if len(folders) < 2:
        raise UserError("compare: name two or more folders of runs or studies.")
    from fedprofit.report.choices import write_comparison

    write_comparison(folders, metric, out, console)
