"""Commands that inspect an input before a run: data, doctor, components and models."""

from pathlib import Path
from typing import Annotated

import typer

from fedprofit.cli.app import app, console
from fedprofit.cli.checks import check_data
from fedprofit.cli.options import AcceptLicence, ConfigFile, Overrides, Plugins
from fedprofit.core.errors import UserError
from fedprofit.runs.libraries import load_libraries

models = typer.Typer(help="List and download the named backbones.", no_args_is_help=True)
app.add_typer(models, name="models", rich_help_panel="Inspect an input")


@app.command(rich_help_panel="Inspect an input")
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
    check_data(settings)
    load_libraries()
    from fedprofit.backbone.load import load_backbone
    from fedprofit.data.describe import client_table, describe, save_picture, summary_table
    from fedprofit.data.federated import open_dataset

    backbone = load_backbone(settings.backbone.name, settings.backbone.dtype, settings.backbone.device)
    facts = describe(open_dataset(settings.data, backbone, settings.seed))
    console.print(summary_table(facts), client_table(facts))
    save_picture(facts, out)
    console.print(f"picture  {out}", soft_wrap=True, highlight=False)


@app.command(rich_help_panel="Inspect an input")
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
        check_data(settings)
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


@app.command(rich_help_panel="Inspect an input")
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
