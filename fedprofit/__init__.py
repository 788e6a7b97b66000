"""fedprofit: the personalization-robustness trade-off in federated tuning of language models.

Clients hold different text. A soft prompt is trained over all of them federatedly on a frozen language
model; each client then personalizes it, gains on its own data and forgets what the others know. This
package measures that trade-off. Its packages, from the bottom up:

    core             errors, files, checksums, seeds, processes
    config           typed configurations; components, which a configuration names by kind
    data             a source, a template and a partition become a federated data set
    backbone         a frozen language model, computed for many clients in one pass
    tuner            parameters that a client trains: a soft prompt
    local            training of many clients at once; the sequential reference
    server           cohort, aggregation steps, server optimizers, client store
    algorithm        FedAvg and FedSGD, one file per paper
    predict          predictors: one set of parameters, a mixture, an ensemble, a gate
    personalization  fine-tuning by client
    baseline         methods without federated training, for comparison
    evaluate         metrics; local, global and unseen-task scores; records of every example
    runs             one run: stages, checkpoints, folder
    studies          many runs, in parallel
    analyze          trade-offs, claims, recommendations, with intervals
    report           tables, pictures and the page

From Python, for a notebook (`fedprofit.api`):

    import fedprofit as fp

    bench = fp.open_bench(rows, clients={"train": 8, "validation": 2, "test": 4})
    federated = fp.train(bench, fp.FedAvg(steps=4), rounds=5)
    personal = fp.personalize(bench, federated, fp.FineTune(steps=10))
    scores = fp.score(bench, federated, personal)
    fp.plot(scores)

and for complete runs:

    config = fp.load_config("configs/quickstart.yaml", ["training.rounds=3"])
    folder = fp.run(config, out="runs/mine")
    results = fp.read_results(folder.path)  # a polars table, one row a client, condition, metric
    fp.write_report(folder.path)  # report.html, tables and pictures, as the command does

Paths may be text or `pathlib.Path`. Components of your own register themselves: see `fedprofit.plugins`.
"""

from typing import TYPE_CHECKING, Any

from fedprofit.core import places
from fedprofit.core.errors import UserError as UserError

if TYPE_CHECKING:
    from fedprofit.algorithm.fedavg import FedAvg as FedAvg
    from fedprofit.algorithm.fedsgd import FedSgd as FedSgd
    from fedprofit.analyze.tradeoff import by_client as by_client, summarize as summarize
    from fedprofit.api import (
        Personal as Personal,
        answer as answer,
        open_bench as open_bench,
        personalize as personalize,
        plot as plot,
        score as score,
        train as train,
    )
    from fedprofit.baseline.local import Central as Central, Local as Local
    from fedprofit.config.file import from_mapping as from_mapping, load_config as load_config
    from fedprofit.config.run import Config as Config
    from fedprofit.data.memory import ClientData as ClientData, dataset as dataset
    from fedprofit.data.sources.hub import HubSource as HubSource
    from fedprofit.data.sources.lexicon import LexiconSource as LexiconSource
    from fedprofit.data.sources.sni import SniSource as SniSource
    from fedprofit.data.sources.table import TableSource as TableSource
    from fedprofit.evaluate.metrics.exact_match import ExactMatch as ExactMatch
    from fedprofit.evaluate.metrics.loss import Loss as Loss
    from fedprofit.evaluate.metrics.rouge_l import RougeL as RougeL
    from fedprofit.evaluate.results import read_results as read_results
    from fedprofit.local.optimizer import Adam as Adam, AdamW as AdamW, Momentum as Momentum, Sgd as Sgd
    from fedprofit.personalization.finetune import FineTune as FineTune
    from fedprofit.predict.ensemble import Ensemble as Ensemble
    from fedprofit.predict.gate import Gate as Gate
    from fedprofit.predict.interpolated import Interpolated as Interpolated
    from fedprofit.predict.single import Single as Single
    from fedprofit.report.write import write_report as write_report
    from fedprofit.runs.run import run as run
    from fedprofit.server.optimizer import (
        AdagradServer as AdagradServer,
        AdamServer as AdamServer,
        MomentumServer as MomentumServer,
        PlainServer as PlainServer,
        YogiServer as YogiServer,
    )
    from fedprofit.server.steps.clip import Clip as Clip
    from fedprofit.server.steps.mean import Mean as Mean
    from fedprofit.server.steps.quantize import Quantize as Quantize
    from fedprofit.server.steps.robust import Median as Median, TrimmedMean as TrimmedMean
    from fedprofit.server.steps.top_k import TopK as TopK
    from fedprofit.studies.many import run_study as study  # noqa: F401
    from fedprofit.tuner.prompt import SoftPrompt as SoftPrompt

    __version__: str

# Public names by the module that defines them, imported when they are first used.
_PUBLIC = {
    "api": "open_bench train personalize score answer plot Personal",
    "config.run": "Config",
    "config.file": "from_mapping load_config",
    "evaluate.results": "read_results",
    "analyze.tradeoff": "by_client summarize",
    "report.write": "write_report",
    "runs.run": "run",
    "algorithm.fedavg": "FedAvg",
    "algorithm.fedsgd": "FedSgd",
    "local.optimizer": "Sgd Momentum Adam AdamW",
    "server.optimizer": "PlainServer MomentumServer AdamServer YogiServer AdagradServer",
    "server.steps.clip": "Clip",
    "server.steps.mean": "Mean",
    "server.steps.robust": "Median TrimmedMean",
    "server.steps.quantize": "Quantize",
    "server.steps.top_k": "TopK",
    "personalization.finetune": "FineTune",
    "baseline.local": "Local Central",
    "predict.single": "Single",
    "predict.interpolated": "Interpolated",
    "predict.ensemble": "Ensemble",
    "predict.gate": "Gate",
    "tuner.prompt": "SoftPrompt",
    "evaluate.metrics.loss": "Loss",
    "evaluate.metrics.rouge_l": "RougeL",
    "evaluate.metrics.exact_match": "ExactMatch",
    "data.sources.table": "TableSource",
    "data.sources.hub": "HubSource",
    "data.sources.sni": "SniSource",
    "data.sources.lexicon": "LexiconSource",
    "data.memory": "dataset ClientData",
    "studies.many": "study",
}
_HOMES = {name: f"fedprofit.{module}" for module, names in _PUBLIC.items() for name in names.split()}
_NAMES = {"study": "run_study"}  # in their modules, where that differs
__all__ = sorted([*_HOMES, "UserError"])

places.settle()  # before a library reads where its folders are


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, `fedprofit --help` should not."""
    import importlib

    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'fedprofit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), _NAMES.get(name, name))


def __dir__() -> list[str]:
    """List the public names, for completion, whether they are imported yet or not."""
    return sorted({*__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fedprofit")
    except PackageNotFoundError:  # a copy of the code that is not installed
        return "unknown"
