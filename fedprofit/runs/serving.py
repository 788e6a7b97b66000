"""The cost of serving each setting of a run: passes and tokens of an answer, bytes that a client stores."""

from dataclasses import asdict, dataclass

from fedprofit.predict.base import PredictorSettings
from fedprofit.predict.single import Single
from fedprofit.runs.bench import Bench

BYTES = 4  # of a stored number: float32


@dataclass(frozen=True)
class Serving:
    """The cost of one setting.

    Attributes:
        setting: its name in the results; "federated" for parameters that all clients share.
        predictor: its kind.
        passes: readings of the input for one answer.
        tokens: tokens of the tuner that are read for one answer, over all passes.
        bytes: what a client stores, with its mean number of train examples.
    """

    setting: str
    predictor: str
    passes: float
    tokens: float
    bytes: float


def serving_costs(bench: Bench) -> list[dict[str, object]]:
    """Return the cost of the federated parameters, of each personalization and of its predictors."""
    config, width = bench.config, bench.engine.backbone.width
    clients = bench.sets.clients
    examples = round(sum(len(bench.train_examples(client)) for client in clients) / len(clients))
    parameters = config.tuner.expected_numbers(width)

    def row(name: str, predictor: PredictorSettings) -> dict[str, object]:
        cost = predictor.cost(config.tuner.tokens, parameters, width, examples)
        return asdict(Serving(name, predictor.kind, cost.passes, cost.tokens, BYTES * cost.numbers))

    found = [row("federated", Single())]
    for settings in config.personalization:
        found.append(row(settings.name, Single()))
        found += [row(f"{settings.name}.{one.name}", one) for one in settings.predictors]
    return found
