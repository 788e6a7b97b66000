"""Inject seeded faults into files and configurations, and count the outcomes.

    python tests/fuzz [--seed 0] [--damaged 1000] [--commands 12] [--configurations 3000]
        [--tables 1500] [--kills 40]

Prints a table for each part. The exit status is 1 if any fault caused a silent change, an exception other
than `UserError`, or a hang. Each part is a function of a folder, a seed and a count; `PARTS` lists them.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / name) for name in (".", "backbone", "fuzz"))]

from damaged_files import commands, damaged_files, make  # noqa: E402
from faults import Outcome, tabulate  # noqa: E402
from killed_runs import killed_runs  # noqa: E402
from mutated_configurations import mutated_configurations  # noqa: E402
from mutated_tables import mutated_tables  # noqa: E402

Part = Callable[[Path, int, int], Iterator[Outcome]]

PARTS: dict[str, tuple[Part, int]] = {  # name: (function that yields outcomes, default count)
    "damaged": (lambda folder, seed, count: damaged_files(make(folder), seed, count), 1000),
    "commands": (lambda folder, seed, count: commands(make(folder), seed, count), 12),
    "configurations": (mutated_configurations, 3000),
    "tables": (mutated_tables, 1500),
    "kills": (killed_runs, 40),
}


def main() -> int:
    """Run the parts and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    for name, (_, count) in PARTS.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"faults (default {count}; 0: none)")
    arguments = vars(parser.parse_args())
    logging.getLogger("fedprofit").propagate = False  # the log of each run contains the messages
    bad = 0
    for name, (part, _) in PARTS.items():
        if arguments[name]:
            with tempfile.TemporaryDirectory() as folder:
                bad += tabulate(name, part(Path(folder), arguments["seed"], arguments[name]))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
