"""The command line. Each command imports what it needs, so that `--help` answers at once."""

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
models = typer.Typer(help="List and fetch the named backbones.", no_args_is_help=True)
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]


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
        help="A Python file with methods, metrics or other components of your own. Repeatable.",
        show_default=False,
    ),
]
AcceptLicence = Annotated[
    bool,
    typer.Option(
        "--accept-licence", callback=_accept_licence, help="Accept the licence of a model that has terms."
    ),
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
    """What does personalizing a federated prompt gain locally and lose globally?"""


@app.command()
def quickstart(
    overrides: Overrides = None,
    out: Out = None,
    quiet: Quiet = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run the whole benchmark small: a few minutes on two cores."""
    _run(Path(__file__).parent / "configs" / "quickstart.yaml", overrides, out, resume=True, quiet=quiet)


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    quiet: Quiet = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run a configuration: train, personalize, score, report."""
    _run(config, overrides, out, resume, quiet)


def _run(config: Path, overrides: list[str] | None, out: Path | None, resume: bool, quiet: bool) -> None:
    from fedprofit.config.file import load_config
    from fedprofit.runs.folder import check_folder, default_folder

    settings = load_config(config, overrides or [])
    cache_folder()  # where none is known, that is said before the libraries are waited for
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
    """Read and check a configuration's data, unless the cache holds it, before libraries and model load."""
    arrow_without_pandas()
    from fedprofit.data.federated import prepare_clients

    prepare_clients(settings.data, settings.seed)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's or a study's folder.", show_default=False)],
    plugins: Plugins = None,
) -> None:
    """Print the tables, and write the page (report.html), the picture and the tables again."""
    from fedprofit.report.write import write_report

    write_report(folder, console)


class RayAlone(TyperCommand):
    """A command whose `--ray` may go without its address, which typer's own options may not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put "local" where an option, a study or nothing follows."""
        whole: list[str] = []
        for own, following in pairwise([*args, "-"]):
            bare = own == "--ray" and (following.startswith("-") or following.endswith((".yaml", ".yml")))
            whole += [own, "local"] if bare else [own]
        return super().parse_args(ctx, whole)


@app.command(cls=RayAlone)
def study(
    study: Annotated[Path, typer.Argument(help="A study (YAML); see studies/.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder.  [default: runs/NAME]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side.  [default: one a core]", show_default=False)
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help='Send the runs to the Ray cluster at this address; "local", or none, starts one here.',
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run what lies at this place on an axis, AXIS=VALUE, e.g. seed=0. Repeatable.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the study in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Show the runs and the time they may take; run none.")
    ] = False,
    yes: Annotated[
        bool, typer.Option(help="Go on with more runs than the study says there should be.")
    ] = False,
    accept: AcceptLicence = False,
    plugins: Plugins = None,
) -> None:
    """Run a study: every combination of its axes, side by side, into one table."""
    arrow_without_pandas()
    from fedprofit.report.studies import print_study, show_plan
    from fedprofit.runs.progress import reporter
    from fedprofit.studies.many import run_study

    if dry_run and ray is not None:
        raise UserError(
            "--dry-run measures this machine, not a cluster. Leave out one of --dry-run and --ray."
        )
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
    """Say for each of the paper's claims whether a study's results support it."""
    from fedprofit.report.studies import write_claims

    write_claims(folder, console)


@app.command()
def recommend(
    folder: Annotated[Path, typer.Argument(help="A run's or a study's folder.", show_default=False)],
    max_forgetting: Annotated[
        float | None,
        typer.Option(
            help="Of the global score, at most (below zero: gained); the best local score is taken."
        ),
    ] = None,
    min_local: Annotated[
        float | None, typer.Option(help="Local score, at least; the least forgetting is taken.")
    ] = None,
    metric: MetricName = None,
    plugins: Plugins = None,
) -> None:
    """Choose what to ship on the validation clients, and check it on the test clients."""
    from fedprofit.analyze.recommend import Limit
    from fedprofit.report.choices import write_recommendation

    write_recommendation(folder, metric, Limit(max_forgetting, min_local), console)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Two or more runs or studies; the first is what others are held to.")
    ],
    metric: MetricName = None,
    out: Annotated[Path | None, typer.Option(help="Also write the tables here, as Markdown.")] = None,
) -> None:
    """Put runs or studies side by side, client by client, with paired intervals."""
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
    """Show a configuration's clients, tasks and heterogeneity, and draw them."""
    if out.suffix not in (".png", ".svg"):
        raise UserError(f"--out {out}: the picture is a .png or an .svg; name it so.")
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
    """Check this machine; with a configuration, estimate its memory, time and disk before a start."""
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
    """List the methods, optimizers and other components that a configuration can name."""
    from fedprofit.catalogue import show

    show(console, kind)


@models.command("list")
def list_models() -> None:
    """List the named backbones and whether they are here."""
    from rich.table import Table

    from fedprofit.backbone import fetch
    from fedprofit.backbone.registry import DEFAULT

    table = Table(show_lines=True)
    for title in ("name", "what it is", "licence", "here"):
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
    """Fetch a named backbone, check it and convert it, once."""
    from fedprofit.backbone import fetch

    folder = fetch.get(name, progress=lambda message: console.print(message, highlight=False))
    console.print(str(folder), soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command line; a user's error is one paragraph and exit status 2."""
    # Read when torch is first imported. By default its threads wait for each other by spinning for long,
    # which takes the cores from those that work wherever anything else runs too: on two cores beside one
    # other busy process a step of 1.2 s took 62 s. A short spin costs nothing measurable on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    end_quickly()
    try:
        app()
    except UserError as error:
        _fail(error)
    except OSError as error:
        # Files have names; what standard output goes to, a device or a closed pipe, has none.
        if error.filename is not None or error.errno not in (
            errno.ENOSPC,
            errno.EIO,
            errno.EPIPE,
            errno.EBADF,
        ):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is held back for it would fail once more
        _fail(UserError(f"The output cannot be written ({error.strerror}). Send it to another place."))


def _fail(error: UserError) -> None:
    from rich.text import Text

    words = Text.assemble(("error", "bold red"), f"  {error}")
    with suppress(OSError):
        Terminal(stderr=True).print(words, highlight=False, soft_wrap=False)
    sys.exit(2)
