"""What the scripts have in common on the command line: options, a table for each type and length, files."""

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

from fedprofit.backbone.load import resolve_device, resolve_dtype
from fedprofit.core.errors import UserError


def measure_tables(
    name: str,
    description: str,
    needs: Mapping[str, str],
    sizes: Mapping[str, tuple[int, str]],
    measure: Callable[[Settings, argparse.Namespace], Measurement],
    arguments: Sequence[str] | None,
) -> None:
    """Measure every type and length asked for; print the tables, and write them, as they come.

    `needs` says which library each method needs, the engine's first; `sizes` are the script's options that
    are whole numbers, with default and meaning.
    """
    args = parse(name, description, needs, sizes, arguments)
    # peft warns at each call that it takes no position ids; none are given.
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    torch.set_num_threads(args.threads)
    measurements = []
    for dtype in args.dtype:
        for length in args.length:
            measurements.append(measure(settings_of(args, dtype, length), args))
            show(measurements[-1])
            if args.out:  # after every table: what was measured is kept, whatever comes of the next
                settings = {option: value for option, value in vars(args).items() if option != "out"}
                write(args.out, name, measurements, settings)


def start(main: Callable[[], None]) -> None:
    """Run a script's main; a user's error is a line and exit status 2."""
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
    """Read the command line; sizes below 1 are refused by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(needs),
        default=[method for method, library in needs.items() if find_spec(library)],
        help="the engine always runs; default all that are installed",
    )
    add_options(parser, sizes)
    parser.add_argument("--out", type=Path, help=f"folder for {name}.json and {name}.md")
    args = parser.parse_args(arguments)
    check_options(parser, args, list(sizes))
    args.methods = [method for method in needs if method == "engine" or method in args.methods]
    return args


def add_options(parser: argparse.ArgumentParser, sizes: Mapping[str, tuple[int, str]]) -> None:
    """Add the options of the work to a script's own; `sizes` are whole numbers with default and meaning."""
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
        help="lexicon, sni, or a path to SNI's tasks; default sni where the table is there",
    )
    for name, (default, text) in sizes.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, help=f"{text} (default {default})"
        )
    parser.add_argument(
        "--token-budget",
        type=int,
        default=Settings.token_budget,
        help="tokens that the engine holds at once (backbone.token_budget; default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of tasks, rows and prompt (default 0)")
    parser.add_argument("--definitions", action=argparse.BooleanOptionalAction, default=True)


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse sizes below 1 by name."""
    for name in (*names, "length", "token_budget"):
        value = getattr(args, name)
        for number in value if isinstance(value, list) else [value]:
            if number < 1:
                parser.error(f"--{name.replace('_', '-')} must be 1 or more, not {number}")


def settings_of(args: argparse.Namespace, dtype: str, length: int) -> Settings:
    """Make the settings of one table from the command line."""
    resolved = str(resolve_dtype(dtype, resolve_device("auto"))).removeprefix("torch.")
    same = ("model", "data", "definitions", "clients", "rows", "steps", "threads", "seed", "token_budget")
    values: dict[str, Any] = {name: getattr(args, name) for name in same}
    return Settings(dtype=resolved, length=length, **values)
