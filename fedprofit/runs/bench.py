"""Shared state of a run's stages: the engine, the data, the personalized clients and their sets."""

from dataclasses import dataclass, field, replace

import numpy as np

from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.load import Backbone, load_backbone
from fedprofit.backbone.paths import SINGLE
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.types import ClientId, Params
from fedprofit.data.federated import FederatedDataset, Group, open_dataset, prepare_clients, stratified
from fedprofit.data.pool import SPLITS
from fedprofit.data.store import Examples
from fedprofit.evaluate.checks import rehearse
from fedprofit.evaluate.clients import Sets
from fedprofit.evaluate.examples import Recorder
from fedprofit.evaluate.facts import DataFacts
from fedprofit.evaluate.rules import Scoring, decide
from fedprofit.local.base import LocalSolver
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import Vectorized
from fedprofit.runs.trials import check_trials
from fedprofit.server.cohort import draw_cohort
from fedprofit.tuner.base import Tuner


@dataclass(frozen=True)
class Bench:
    """State that is fixed before the first round."""

    config: Config
    engine: Engine
    dataset: FederatedDataset
    start: Params  # the common initialization
    sets: Sets  # the test clients and their sets
    validation: Examples  # the global validation set; empty without validation clients
    scoring: Scoring  # the metrics, resolved for the data set
    records: Recorder = field(default_factory=Recorder)  # records of the examples that the stage scored

    def train_examples(self, client: ClientId) -> Examples:
        """Return a client's own train examples."""
        return self.dataset.examples(client, "train")

    @property
    def solver(self) -> LocalSolver:
        """The solver of local training."""
        if self.config.backbone.engine == "reference":
            return Sequential(self.engine.backbone, tuner=self.tuner)
        return Vectorized(self.engine, self.tuner)

    @property
    def tuner(self) -> Tuner:
        """The tuner."""
        return self.config.tuner.build()

    def of_validation_clients(self) -> "Bench":
        """Return a copy with the validation clients in place of the test clients.

        They are scored in the same way, on their own and their pool's test examples. None of these is in the
        set by which rounds and trials are selected.
        """
        return replace(self, sets=draw_sets(self.dataset, "validation", self.config))


def prepare(config: Config, dtype: str | None = None, backbone: Backbone | None = None) -> Bench:
    """Load the backbone and the data of a configuration and draw its fixed sets.

    Args:
        config: what to run.
        dtype: the number type if the configuration has `auto`.
        backbone: a model in memory, instead of the one that the configuration names.

    Raises:
        UserError: data, model or a setting cannot be used; the message names it.
    """
    check_trials(config)
    prepare_clients(config.data, config.seed)  # first: errors in the data are found before a model is loaded
    settings = config.in_type(dtype or "auto").backbone
    backbone = backbone or load_backbone(settings.name, settings.dtype, settings.device)
    dataset = open_dataset(config.data, backbone, config.seed)
    _check_context(config, backbone, dataset)
    untrained = [trials[0] for trials in config.baseline_trials.values() if not trials[0].is_trained]
    extra = max((one.extra_tokens(dataset.store.longest()) for one in untrained), default=0)
    reach = longest_row(config, dataset) + extra
    path = SINGLE if settings.engine == "reference" else settings.attention
    engine = make_engine(backbone, path, settings.token_budget, settings.workers, reach)
    _check_clients(config, dataset)
    count, seed = config.evaluation.global_examples, config.seed
    validation = stratified(dataset.pooled("validation", "validation"), count, seed, "global validation")
    start = config.tuner.build().init(backbone, seed)
    source = config.data.source
    unread = dataset.store.unread_targets()
    facts = DataFacts(source.kind, *unread, source.is_users_own, source.unread_share)
    scoring = decide(config.evaluation.metrics, facts)
    rehearse(scoring.metrics, [dataset.store[0]])
    sets = draw_sets(dataset, scored_group(config), config)
    return Bench(config, engine, dataset, start, sets, validation, scoring)


def longest_row(config: Config, dataset: FederatedDataset) -> int:
    """Return the tokens of the longest row, including those of the tuner and the answer."""
    return config.tuner.tokens + dataset.store.longest() + config.evaluation.max_new_tokens


def scored_group(config: Config) -> Group:
    """Return the group of scored clients, by the regime."""
    return "test" if config.evaluation.regime == "new" else "train"


def _participants(dataset: FederatedDataset, config: Config) -> list[ClientId]:
    """Draw the train clients that are scored: those with test examples, or some of them by seed."""
    names = dataset.clients("train")
    tested = [client for client in names if len(dataset.examples(client, "test"))]
    if not tested:
        raise UserError(
            "evaluation.regime: participating scores train clients, and none has test examples. Set "
            "data.partition.hold_out to all, or data.examples.test above 0."
        )
    return draw_cohort(tested, config.evaluation.participants or len(tested), config.seed, 0)


def draw_sets(dataset: FederatedDataset, group: Group, config: Config) -> Sets:
    """Draw the sets that the clients of a group are scored on."""
    evaluation, seed = config.evaluation, config.seed
    clients = _participants(dataset, config) if group == "train" else list(dataset.clients(group))
    purpose = "global" if group == "test" else f"global of {group} clients"
    shared = {"global": stratified(dataset.pooled(group, "test"), evaluation.global_examples, seed, purpose)}
    if group == scored_group(config):
        shared["unseen"] = stratified(dataset.unseen, evaluation.unseen_examples, seed, "unseen")
    return Sets(
        clients=clients,
        local={client: dataset.examples(client, "test") for client in clients},
        validation={client: dataset.examples(client, "validation") for client in clients},
        shared=shared,
        trained={client: dataset.trained_tasks(client) for client in clients},
    )


def typical_tokens(bench: Bench) -> tuple[float, float, float]:
    """Return the mean tokens of prefix, source and target over the local test sets, for estimates."""
    examples = [example for own in bench.sets.local.values() for example in own[:32]]
    parts = np.array([[len(e.prefix), len(e.source), len(e.target)] for e in examples])
    prefix, source, target = parts.mean(0).tolist()
    return prefix, source, target


def _check_clients(config: Config, dataset: FederatedDataset) -> None:
    train, validation, test = (len(dataset.clients(group)) for group in SPLITS)
    if not train or (scored_group(config) == "test" and not test):
        raise UserError(
            f"data.clients: there are {train} train and {test} test clients; a run needs at least one of "
            "each."
        )
    wants = []
    if any(
        len(trials) > 1 for trials in config.training.methods.values()
    ):  # then baselines have several, too
        wants.append("to choose among trials")
    if config.evaluation.validation:
        wants.append("evaluation.validation")
    if wants and not len(dataset.pooled("validation", "validation")):
        raise UserError(
            f"data.clients: validation clients with examples are needed ({', '.join(wants)}); there are "
            f"{validation}. Raise data.clients.validation and data.examples.validation."
        )


def _check_context(config: Config, backbone: Backbone, dataset: FederatedDataset) -> None:
    context = backbone.context_length
    needed = config.tuner.tokens + dataset.store.longest()
    if context is not None and needed > context:
        raise UserError(
            f"backbone {backbone.name!r}: reads at most {context} tokens, but the longest example has "
            f"{dataset.store.longest()} and the tuner adds {config.tuner.tokens} ({needed} in all). Lower "
            f"{' or '.join(filter(None, ('data.template.max_tokens', config.tuner.tokens_field)))}."
        )
