"""A data source from a function: each client asks for one arithmetic operation.

Name it in a configuration and load it on the command line:

    data: {source: {kind: arithmetic, clients: 14, rows: 60}}

    fedprofit run my.yaml --plugin examples/plugins/function_source.py
"""

import random
from collections.abc import Iterator
from typing import Any

from fedprofit.config.base import Positive
from fedprofit.data.memory import read_rows
from fedprofit.data.sources.base import SourceSettings

OPERATIONS = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "larger": max,
    "smaller": min,
}


def arithmetic(clients: int, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of all clients."""
    draw = random.Random(seed)
    for client in range(clients):
        name = list(OPERATIONS)[client % len(OPERATIONS)]
        for _ in range(rows):
            a, b = draw.randrange(10), draw.randrange(10)
            yield {
                "client": f"client {client:02d}",
                "task": name,
                "definition": f"Name the {name} of the two numbers.",
                "input": f"{a} {b}",
                "target": OPERATIONS[name](a, b),
            }


class Arithmetic(SourceSettings, kind="arithmetic"):
    """Sums, differences, larger and smaller of two numbers: one operation a client."""

    clients: Positive = 14
    """How many clients there are."""
    rows: Positive = 60
    """How many rows each client has."""

    @property
    def has_clients(self):
        """Whether rows name their clients."""
        return True

    def read(self, seed, reading):
        """Make the rows."""
        return read_rows(arithmetic(self.clients, self.rows, seed), self.place, reading)
