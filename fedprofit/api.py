"""The Python API: from data and a model to trained, personalized and scored parameters, as plain values.

    import fedprofit as fp

    rows = [{"client": "ann", "input": "2 + 2", "target": "4"}, ...]
    bench = fp.open_bench(rows, clients={"train": 8, "validation": 2, "test": 4})
    federated = fp.train(bench, fp.FedAvg(steps=4), rounds=5)
    personal = fp.personalize(bench, federated, fp.FineTune(steps=10, evaluate_at=(2, 5)))
    scores = fp.score(bench, federated, personal)
    fp.plot(scores)                                # the trade-off, shown inline in a notebook
    fp.answer(bench, personal, ["3 + 3"], client="ann")

`score` returns a polars table with a row per client, condition, scope and metric; `fp.summarize` averages it.
`fp.run` and `fp.study` compute complete grids, with checkpoints and a report.
"""

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprofit.core.errors import UserError, nearest

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from fedprofit.algorithm.base import AlgorithmSettings
    from fedprofit.backbone.load import Backbone
    from fedprofit.personalization.base import PersonalizationSettings, Personalized
    from fedprofit.runs.bench import Bench
    from fedprofit.runs.train import Trained
    from fedprofit.tuner.base import TunerSettings

NAME = "notebook"  # of configurations that are made here


@dataclass(frozen=True)
class Personal:
    """Clients' personal parameters.

    Attributes:
        settings: settings of their training.
        start: the federated parameters that they started from.
        tuned: the clients' parameters after each evaluation step.
    """

    settings: "PersonalizationSettings"
    start: "Trained"
    tuned: "Personalized"


def open_bench(
    data: Any,
    model: Any = None,
    *,
    columns: Mapping[str, str] | None = None,
    clients: Mapping[str, int] | None = None,
    tuner: "TunerSettings | None" = None,
    seed: int = 0,
    **sections: Any,
) -> "Bench":
    """Load a model and data, make the clients, and draw their test sets.

    Args:
        data: a data source, such as `fp.TableSource(path="mine.csv")`, or data in memory: see
            `fedprofit.data.memory.dataset`.
        model: the name of a backbone, a folder, a `.gguf` file or a hub id; or a pair of a transformers model
            and its tokenizer. By default SmolLM2-135M-Instruct.
        columns: columns of data in memory by role, if their names are not the usual ones.
        clients: numbers of train, validation and test clients.
        tuner: parameters that clients train; by default a soft prompt.
        seed: seed of all draws.
        **sections: further sections of a configuration, `data`, `backbone` and `evaluation`, as mappings.

    Raises:
        UserError: the data, the model or a section cannot be used.
    """
    from fedprofit.config.file import from_mapping
    from fedprofit.runs.bench import prepare

    backbone = _backbone(model)
    settings = {**sections.pop("backbone", {})}
    if isinstance(model, str | Path):
        settings["name"] = str(model)
    source = {**sections.pop("data", {}), "source": _source(data, columns)}
    if clients is not None:
        source["clients"] = {"train": 0, "validation": 0, "test": 0, **clients}
    mapping = {
        "name": NAME,
        "seed": seed,
        "backbone": settings,
        "data": source,
        "training": {"algorithms": [{"kind": "fedavg", "steps": 1}]},
        **({} if tuner is None else {"tuner": tuner}),
        **sections,
    }
    return prepare(from_mapping(mapping, "open_bench"), backbone=backbone)


def _backbone(model: Any) -> "Backbone | None":
    if model is None or isinstance(model, str | Path):
        return None
    from fedprofit.backbone.load import Backbone
    from fedprofit.backbone.memory import backbone_of

    if isinstance(model, Backbone):
        return model
    if isinstance(model, tuple) and len(model) == 2:
        return backbone_of(*model)
    raise UserError(
        f"model: found {type(model).__name__}. Give a name, a folder, or a pair of a transformers model and "
        "its tokenizer."
    )


def _source(data: Any, columns: Mapping[str, str] | None) -> Any:
    from fedprofit.data.memory import dataset
    from fedprofit.data.sources.base import SourceSettings

    return data if isinstance(data, SourceSettings) else dataset(data, columns)


def train(
    bench: "Bench",
    algorithm: "AlgorithmSettings",
    rounds: int = 10,
    cohort: int = 8,
    evaluate_every: int = 5,
    folder: str | Path | None = None,
    progress: bool = True,
) -> "Trained":
    """Train one set of parameters federatedly.

    Args:
        bench: of `open_bench`.
        algorithm: such as `fp.FedAvg(steps=4)`.
        rounds: of training.
        cohort: clients per round; all of them if there are fewer.
        evaluate_every: rounds between two validation losses.
        folder: folder of checkpoints, from which interrupted training is resumed. By default there are none.
        progress: whether to show a progress bar.
    """
    from fedprofit.config.run import TrainingConfig
    from fedprofit.runs import train as training
    from fedprofit.runs.folder import RunFolder, Stopwatch
    from fedprofit.runs.progress import reporter

    settings = TrainingConfig(
        rounds=rounds, cohort=cohort, evaluate_every=evaluate_every, algorithms=(algorithm,)
    )
    bench = replace(bench, config=bench.config.model_copy(update={"training": settings}))
    temporary = tempfile.TemporaryDirectory() if folder is None else None
    place = RunFolder(Path(folder or temporary.name))  # type: ignore[union-attr]
    place.path.mkdir(parents=True, exist_ok=True)
    with reporter(not progress) as report:
        report.plan(None, rounds)
        report.begin(algorithm.name)
        found = training.train(bench, algorithm, place, report, 1.0, Stopwatch(place))
    if temporary is not None:  # it has the clients' states, which `found.personal` reads
        weakref.finalize(found, temporary.cleanup)
    return found


def personalize(
    bench: "Bench",
    federated: "Trained",
    how: "PersonalizationSettings | None" = None,
    validation: bool = False,
) -> Personal:
    """Personalize federated parameters by every scored client, on its own train examples.

    Args:
        bench: of `open_bench`.
        federated: of `train`.
        how: such as `fp.FineTune(steps=10)`, which is the default.
        validation: personalize the validation clients instead of the test clients.
    """
    from fedprofit.personalization.base import personalize as compute
    from fedprofit.personalization.finetune import FineTune

    how = how or FineTune(steps=10)
    clients = (bench.of_validation_clients() if validation else bench).sets.clients
    start = getattr(federated, how.start)
    tuned = compute(how, bench.solver, start, clients, bench.train_examples, bench.config.seed)
    return Personal(how, federated, tuned)


def score(bench: "Bench", *what: "Trained | Personal") -> "pl.DataFrame":
    """Score the base model, federated and personal parameters for every scored client.

    Args:
        bench: of `open_bench`.
        *what: of `train` and `personalize`. Personal parameters are compared with their federated start, so
            name that too. The base model is always scored.

    Returns:
        A row per client, condition, evaluation step, scope and metric: see `fedprofit/evaluate/results.py`.
    """
    from fedprofit.evaluate.results import Condition, to_frame
    from fedprofit.runs import conditions

    rows = conditions.score_shared(bench, bench.tuner.empty(bench.engine.backbone), Condition("base"))
    for one in what:
        if isinstance(one, Personal):
            own = Condition("personalized", one.start.name, one.settings.name, one.settings.start)
            start = getattr(one.start, one.settings.start)
            rows += conditions.score_points(bench, start, one.tuned, one.settings, own)
        else:
            rows += conditions.federated(bench, one.name, one)
    bench.records.take()
    return to_frame(bench.config.seed, rows)


def answer(
    bench: "Bench",
    what: "Trained | Personal | None",
    inputs: Sequence[str],
    client: str | None = None,
    definition: str = "",
    max_new_tokens: int | None = None,
) -> list[str]:
    """Answer inputs with the base model, federated parameters, or a client's personal ones.

    Args:
        bench: of `open_bench`.
        what: of `train` or `personalize`; None for the base model.
        inputs: the texts to answer.
        client: whose personal parameters are used.
        definition: the instruction that is shown before each input.
        max_new_tokens: of each answer; by default as in scoring.

    Raises:
        UserError: no client is named for personal parameters, or an unknown one.
    """
    import numpy as np

    from fedprofit.backbone.forward import Row
    from fedprofit.core.types import Example
    from fedprofit.data.template import Instance, Template

    backbone = bench.engine.backbone
    template = Template(backbone.tokenizer, bench.config.data.template, backbone.eos_token_ids[0])
    encoded = template.encode([Instance(definition, (), text, "?") for text in inputs])
    end = np.array(backbone.eos_token_ids[:1], np.int32)
    rows = [Row(0, Example(prefix, source, end, "", ())) for prefix, source, _ in encoded]
    prompt = bench.tuner.apply_one(_parameters(bench, what, client)).unsqueeze(0)
    most = bench.config.evaluation.max_new_tokens if max_new_tokens is None else max_new_tokens
    _, answers = bench.engine.answer(prompt, rows, most)
    return [str(backbone.tokenizer.decode(one, skip_special_tokens=True)).strip() for one in answers]


def _parameters(bench: "Bench", what: "Trained | Personal | None", client: str | None) -> Any:
    """Return one client's parameters, or those of all, unstacked."""
    if what is None:
        return bench.tuner.empty(bench.engine.backbone)
    if not isinstance(what, Personal):
        return what.last
    names = what.tuned.clients
    if client not in names:
        known = nearest(client, names) if client else f"clients: {', '.join(names[:10])}"
        raise UserError(
            f"answer: client {client!r} has no personal parameters ({known}). Name one with client=."
        )
    last = what.tuned.points[max(what.tuned.points)]
    return {key: tensor[names.index(client)] for key, tensor in last.items()}


def plot(scores: "pl.DataFrame", title: str = "Trade-off", model: str = "") -> "Figure":
    """Draw local against global scores, with curves along the personalization steps.

    Args:
        scores: of `score`.
        title: of the figure.
        model: the model's name, for the title.

    Returns:
        A matplotlib figure, which a notebook shows inline.
    """
    from fedprofit.report.figure import tradeoff_figure
    from fedprofit.report.overview import summarize_cell

    cell = summarize_cell(scores)
    figure = tradeoff_figure(title, model, [cell])
    below = ", ".join(filter(None, (model, f"{cell.clients} scored clients")))
    figure.suptitle(f"{title}\n{below}", x=0.01, ha="left", fontsize=11)
    return figure
