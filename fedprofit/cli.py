"""The command line. Commands import lazily, so that `--help` is fast."""

import errno
import os
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fedprofit.core.errors import UserError
from fedprofit.core.files import cache_folder
from fedprofit.core.processes import arrow_without_pandas, end_quickly, usable_cores
from fedprofit.core.terminal import Terminal
from fedprofit.evaluate.metric import known_metrics
from fedprofit.runs.libraries import load_libraries

if TYPE_CHECKING:
    from fedprofit.config.run import Config

app = typer.Typer(
    name="fedprofit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="List and download the named backbones.", no_args_is_help=True)
app.add_typer(models, name="models")
console = Terminal()
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EBADF)

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


def _accept_licence(accepted: bool) -> None:
    if accepted:
        os.environ["FEDPROFIT_ACCEPT_LICENCE"] = "all"


def _load_plugins(files: list[Path] | None) -> None:
    if files:
        from fedprofit.plugins import load_files

        load_files(files)


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        callback=_load_plugins,
        is_eager=True,
        help="A Python file with methods, metrics or other components. Repeatable.",
        show_default=False,
    ),
]
AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-licence", callback=_accept_licence, help="Accept the licence terms of a model."),
]


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


@app.command()
def quickstart(
    overrides: Overrides = None,
    out: Out = None,
    quiet: Quiet = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run a small version of the whole benchmark: a few minutes on two cores."""
    _run(Path(__file__).parent / "configs" / "quickstart.yaml", overrides, out, resume=True, quiet=quiet)


@app.command()
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
        _check_data(settings)
    load_libraries()

    from fedprofit.report.write import write_report
    from fedprofit.runs.progress import reporter
    from fedprofit.runs.run import run as run_config

    with reporter(quiet) as report:
        folder = run_config(settings, out, resume, report)
    write_report(folder.path, console)


def _check_data(settings: "Config") -> None:
    """Validate a configuration's data before libraries and model are loaded; skip data in the cache."""
    arrow_without_pandas()
    from fedprofit.data.federated import prepare_clients

    prepare_clients(settings.data, settings.seed)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's or a study's folder.", show_default=False)],
    plugins: Plugins = None,
) -> None:
    """Print the tables; write the page (report.html), the picture and the tables again."""
    from fedprofit.report.write import write_report

    write_report(folder, console)


class OptionalRayAddress(TyperCommand):
    """A command whose `--ray` option has an optional value, which typer does not support."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert "local" after `--ray` before an option, a study or the end."""
        completed: list[str] = []
        for current, following in pairwise([*args, "-"]):
            bare = current == "--ray" and (following.startswith("-") or following.endswith((".yaml", ".yml")))
            completed += [current, "local"] if bare else [current]
        return super().parse_args(ctx, completed)


@app.command(cls=OptionalRayAddress)
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
            study, overrides or [], out, workers, resume, yes, ray, report, only or [], foresee=True
        )
    print_study(folder, progress, console)
    if progress.failed:
        raise typer.Exit(1)


@app.command()
def claims(folder: Annotated[Path, typer.Argument(help="A study's folder.", show_default=False)]) -> None:
    """Test each of the paper's claims against a study's results."""
    from fedprofit.report.studies import write_claims

    write_claims(folder, console)


@app.command()
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


@app.command()
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


@app.command()
def data(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The picture, .png or .svg.")] = Path("data.png"),
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Show a configuration's clients, tasks and heterogeneity, and plot them."""
    if out.suffix not in (".png", ".svg"):
        raise UserError(f"--out {out}: the picture must be a .png or .svg file. Change the suffix.")
    from fedprofit.config.file import load_config

    settings = load_config(config, overrides or [])
    _check_data(settings)
    load_libraries()
    from fedprofit.backbone.load import load_backbone
    from fedprofit.data.describe import client_table, describe, save_picture, summary_table
    from fedprofit.data.federated import open_dataset

    backbone = load_backbone(settings.backbone.name, settings.backbone.dtype, settings.backbone.device)
    facts = describe(open_dataset(settings.data, backbone, settings.seed))
    console.print(summary_table(facts), client_table(facts))
    save_picture(facts, out)
    console.print(f"picture  {out}", soft_wrap=True, highlight=False)


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(help="Also estimate this configuration's memory and time.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also verify every file of the cached models and data.")
    ] = False,
) -> None:
    """Check this machine; estimate the memory, time and disk of a configuration."""
    from fedprofit.config.file import load_config

    settings = load_config(config, overrides or []) if config else None
    if settings:
        _check_data(settings)
    load_libraries()
    from fedprofit import doctor as checks

    console.print(checks.machine())
    if verify:
        table, intact = checks.verify()
        console.print(table)
        if not intact:
            raise typer.Exit(1)
    if settings:
        console.print(checks.estimate(settings))


@app.command()
def components(
    kind: Annotated[
        str | None,
        typer.Argument(help="A family or a kind, such as algorithm or fedavg.", show_default=False),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """List the methods, optimizers and other components for configurations."""
    from fedprofit.catalogue import show

    show(console, kind)


@models.command("list")
def list_models() -> None:
    """List the named backbones and whether they are downloaded."""
    from rich.table import Table

    from fedprofit.backbone import fetch
    from fedprofit.backbone.registry import DEFAULT

    table = Table(show_lines=True)
    for title in ("name", "description", "licence", "downloaded"):
        table.add_column(title, overflow="fold")
    for found in fetch.available():
        default = " (default)" if found.record.name == DEFAULT else ""
        here = f"{found.bytes_on_disk / 1e6:.0f} MB" if found.fetched else "no"
        table.add_row(found.record.name + default, found.record.description, found.record.licence, here)
    console.print(table)
    console.print(
        "Also: a folder in Hugging Face format, a .gguf file, or a hub id such as owner/name.", style="dim"
    )


@models.command("get")
def get_model(
    name: Annotated[str, typer.Argument(help="A named backbone.", show_default=False)],
    accept: AcceptLicence = False,
) -> None:
    """Download a named backbone, verify it and convert it, once."""
    from fedprofit.backbone import fetch

    folder = fetch.get(name, progress=lambda message: console.print(message, highlight=False))
    console.print(str(folder), soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command line. A UserError is printed as one paragraph; the exit status is 2."""
    # Read when torch is first imported. By default, its waiting threads spin for a long time and take cores
    # from other processes: on two cores with one other busy process, a step of 1.2 s took 62 s. A short spin
    # has no measurable cost on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    end_quickly()
    try:
        app()
    except UserError as error:
        _fail(error)
    except OSError as error:
        # Errors of standard output, a device or a closed pipe, have no file name.
        if error.filename is not None or error.errno not in (
            errno.ENOSPC,
            errno.EIO,
            errno.EPIPE,
            errno.EBADF,
        ):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the buffered output fails again at exit
        _fail(UserError(f"The output cannot be written ({error.strerror}). Redirect it elsewhere."))


def _fail(error: UserError) -> None:
    from rich.text import Text

    words = Text.assemble(("error", "bold red"), f"  {error}")
    with suppress(OSError):
        Terminal(stderr=True).print(words, highlight=False, soft_wrap=False)
    sys.exit(2)
