"""fedprofit: the personalization-robustness trade-off in federated prompt tuning.

Clients hold different text. A soft prompt is trained over all of them federatedly on a frozen language
model; each client then personalizes it, gains on its own data and forgets what the others know. This
package measures that trade-off. The way of the data, room by room:

    data          a source, a template and a partition become a federated data set
    backbone      a frozen language model, computed for many clients in one pass
    tuner         what a client owns: a soft prompt
    local         K clients trained at once; the sequential reference beside it
    server        cohort, average, server optimizer
    algorithm     FedAvg and FedSGD, as values built from parts
    personalize   fine-tuning by client, proximal term, interpolation
    evaluate      local, global and unseen-task scores; the trade-off
    study         the run: its loop, checkpoints and folder; studies of many runs
    analyze       what they found: curves, fronts, claims, differences, what to ship
    report        tables, pictures and the page

From Python:

    import fedprofit

    config = fedprofit.load_config("configs/quickstart.yaml", ["training.rounds=3"])
    folder = fedprofit.run(config, out="runs/mine")
    results = fedprofit.read_results(folder.path)  # a polars table, one row a client, condition, metric
    print(fedprofit.summarize(results))
    fedprofit.write_report(folder.path)  # report.html, tables and pictures, as the command does

Paths may be text or `pathlib.Path`.
"""

from typing import TYPE_CHECKING, Any

from fedprofit.core import places
from fedprofit.core.errors import UserError

if TYPE_CHECKING:
    from fedprofit.analyze.tradeoff import by_client, summarize
    from fedprofit.config.file import from_mapping, load_config
    from fedprofit.config.run import Config
    from fedprofit.evaluate.results import read_results
    from fedprofit.report.write import write_report
    from fedprofit.runs.run import run

    __version__: str

__all__ = [
    "Config",
    "UserError",
    "by_client",
    "from_mapping",
    "load_config",
    "read_results",
    "run",
    "summarize",
    "write_report",
]

_HOMES = {
    "Config": "fedprofit.config.run",
    "from_mapping": "fedprofit.config.file",
    "load_config": "fedprofit.config.file",
    "read_results": "fedprofit.evaluate.results",
    "by_client": "fedprofit.analyze.tradeoff",
    "summarize": "fedprofit.analyze.tradeoff",
    "run": "fedprofit.runs.run",
    "write_report": "fedprofit.report.write",
}

places.settle()  # before a library reads where its folders are


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, `fedprofit --help` should not."""
    import importlib

    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'fedprofit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, for completion, whether they are imported yet or not."""
    return sorted({*globals(), *__all__, "__version__"} - {"TYPE_CHECKING", "Any"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fedprofit")
    except PackageNotFoundError:  # a copy of the code that is not installed
        return "unknown"
