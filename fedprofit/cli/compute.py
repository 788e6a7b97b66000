"""Commands that compute: quickstart, run and study."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fedprofit.cli.app import app, console
from fedprofit.cli.checks import check_data
from fedprofit.cli.options import AcceptLicence, ConfigFile, Out, Overrides, Plugins, Quiet
from fedprofit.core.errors import UserError
from fedprofit.core.files import cache_folder
from fedprofit.core.processes import arrow_without_pandas, usable_cores
from fedprofit.runs.libraries import load_libraries


@app.command(rich_help_panel="Compute")
def quickstart(
    overrides: Overrides = None,
    out: Out = None,
    quiet: Quiet = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run a small version of the whole benchmark: a few minutes on two cores."""
    _run(Path(__file__).parents[1] / "configs" / "quickstart.yaml", overrides, out, resume=True, quiet=quiet)


@app.command(rich_help_panel="Compute")
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Resume the run in the folder.")] = False,
    quiet: Quiet = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run a configuration: train, personalize, evaluate, report."""
    _run(config, overrides, out, resume, quiet)


def _run(config: Path, overrides: list[str] | None, out: Path | None, resume: bool, quiet: bool) -> None:
    from fedprofit.config.file import load_config
    from fedprofit.runs.folder import check_folder, default_folder

    settings = load_config(config, overrides or [])
    cache_folder()  # fail before the slow imports if it is unknown
    if not check_folder(out or default_folder(settings), settings, resume).is_complete:
        check_data(settings)
    load_libraries()

    from fedprofit.report.write import write_report
    from fedprofit.runs.progress import reporter
    from fedprofit.runs.run import run as run_config

    with reporter(quiet) as report:
        folder = run_config(settings, out, resume, report)
    write_report(folder.path, console)


class OptionalRayAddress(TyperCommand):
    """A command whose `--ray` option has an optional value, which typer does not support."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert "local" after `--ray` before an option, a study or the end."""
        completed: list[str] = []
        for current, following in pairwise([*args, "-"]):
            bare = current == "--ray" and (following.startswith("-") or following.endswith((".yaml", ".yml")))
            completed += [current, "local"] if bare else [current]
        return super().parse_args(ctx, completed)


@app.command(cls=OptionalRayAddress, rich_help_panel="Compute")
def study(
    study: Annotated[Path, typer.Argument(help="A study (YAML); see studies/.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder.  [default: runs/NAME]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel runs.  [default: one per core]", show_default=False)
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help='Run on the Ray cluster at this address; "local", or no address, starts one here.',
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only this value of an axis, AXIS=VALUE, e.g. seed=0. Repeatable.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Resume the study in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Show the runs and their estimated time without running them.")
    ] = False,
    yes: Annotated[bool, typer.Option(help="Confirm a study with more runs than its limit.")] = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run a study: every combination of its axes, in parallel, into one table."""
    arrow_without_pandas()
    from fedprofit.report.studies import print_study, show_plan
    from fedprofit.runs.progress import reporter
    from fedprofit.studies.many import run_study

    if dry_run and ray is not None:
        raise UserError("--dry-run measures this machine, not a cluster. Omit one of --dry-run and --ray.")
    if dry_run:
        show_plan(study, overrides or [], out, workers or usable_cores(), console, only or [], yes)
        return
    with reporter() as report:
        folder, progress = run_study(
            study, overrides or [], out, workers, resume, yes, ray, report, only or [], estimate=True
        )
    print_study(folder, progress, console)
    if progress.failed:
        raise typer.Exit(1)


@app.command(rich_help_panel="Compute")
def tasks(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the table.  [default: runs/NAME]")] = None,
    margin: Annotated[
        float, typer.Option(help="Points of ROUGE-L by which a trained prompt must exceed trivial answers.")
    ] = 10.0,
    quiet: Quiet = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Select tasks for a study: those that a prompt can learn, and trivial answers do not solve."""
    from fedprofit.config.file import load_config

    settings = load_config(config, overrides or [])
    check_data(settings)
    load_libraries()
    from fedprofit.report.tasks import write_selection
    from fedprofit.runs.progress import reporter
    from fedprofit.studies.selection import select_tasks

    with reporter(quiet) as report:
        found = select_tasks(settings, margin, report)
    place = out or Path("runs") / settings.name
    place.mkdir(parents=True, exist_ok=True)
    write_selection(found, place, console)
