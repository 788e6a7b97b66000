"""The shared command line of the scripts: options, one table per dtype and prompt length, output files."""

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from table import Measurement, show, write
from work import Settings, sni_table

from fedprofit.backbone.device import resolve_device, resolve_dtype
from fedprofit.core.errors import UserError


def measure_tables(
    name: str,
    description: str,
    needs: Mapping[str, str],
    sizes: Mapping[str, tuple[int, str]],
    measure: Callable[[Settings, argparse.Namespace], Measurement],
    arguments: Sequence[str] | None,
) -> None:
    """Measure every requested dtype and length; print and write each table as soon as it is measured.

    `needs` maps each method to its library, the engine first. `sizes` maps each integer option of the script
    to its default and help text.
    """
    args = parse(name, description, needs, sizes, arguments)
    # peft warns at each call that position ids are ignored, although none are passed.
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    torch.set_num_threads(args.threads)
    measurements = []
    for dtype in args.dtype:
        for length in args.length:
            measurements.append(measure(settings_of(args, dtype, length), args))
            show(measurements[-1])
            if args.out:  # after every table: a later failure loses nothing
                settings = {option: value for option, value in vars(args).items() if option != "out"}
                write(args.out, name, measurements, settings)


def start(main: Callable[[], None]) -> None:
    """Run the main function of a script; report a UserError in one line with exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def parse(
    name: str,
    description: str,
    needs: Mapping[str, str],
    sizes: Mapping[str, tuple[int, str]],
    arguments: Sequence[str] | None,
) -> argparse.Namespace:
    """Parse the command line; refuse sizes below 1 by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(needs),
        default=[method for method, library in needs.items() if find_spec(library)],
        help="the engine always runs; default: all installed methods",
    )
    add_options(parser, sizes)
    parser.add_argument("--out", type=Path, help=f"folder for {name}.json and {name}.md")
    args = parser.parse_args(arguments)
    check_options(parser, args, list(sizes))
    args.methods = [method for method in needs if method == "engine" or method in args.methods]
    return args


def add_options(parser: argparse.ArgumentParser, sizes: Mapping[str, tuple[int, str]]) -> None:
    """Add the shared options; `sizes` maps integer options to default and help text."""
    parser.add_argument("--model", default="smollm2-135m-q4", help="a named backbone, a folder or a hub id")
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["bfloat16", "float32"],
        choices=["auto", "float32", "bfloat16"],
        help="one table each (default bfloat16 float32)",
    )
    parser.add_argument(
        "--length",
        nargs="+",
        type=int,
        default=[20, 100],
        help="vectors of the soft prompt, one table each (default 20 100)",
    )
    parser.add_argument(
        "--data",
        default="sni" if sni_table().is_file() else "lexicon",
        help="lexicon, sni, or a path to SNI's tasks; default sni if its table exists",
    )
    for name, (default, text) in sizes.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, help=f"{text} (default {default})"
        )
    parser.add_argument(
        "--token-budget",
        type=int,
        default=Settings.token_budget,
        help="most tokens of an engine pass (backbone.token_budget; default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of tasks, rows and prompt (default 0)")
    parser.add_argument("--definitions", action=argparse.BooleanOptionalAction, default=True)


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse sizes below 1 by name."""
    for name in (*names, "length", "token_budget"):
        value = getattr(args, name)
        for number in value if isinstance(value, list) else [value]:
            if number < 1:
                parser.error(f"--{name.replace('_', '-')} must be 1 or more, not {number}")


def settings_of(args: argparse.Namespace, dtype: str, length: int) -> Settings:
    """Return the settings of one table."""
    resolved = str(resolve_dtype(dtype, resolve_device("auto"))).removeprefix("torch.")
    copied = ("model", "data", "definitions", "clients", "rows", "steps", "threads", "seed", "token_budget")
    values: dict[str, Any] = {name: getattr(args, name) for name in copied}
    return Settings(dtype=resolved, length=length, **values)
