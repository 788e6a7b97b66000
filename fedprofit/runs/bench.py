"""What the stages of a run share: the engine, the data, the clients that are personalized and their sets."""

from dataclasses import dataclass, replace

import numpy as np

from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.load import Backbone, load_backbone
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.types import ClientId, Params
from fedprofit.data.federated import FederatedDataset, Group, open_dataset, prepare_clients, stratified
from fedprofit.data.pool import SPLITS
from fedprofit.data.store import Examples
from fedprofit.evaluate.clients import Sets
from fedprofit.evaluate.rules import Rules, choose_rules
from fedprofit.local.base import LocalSolver
from fedprofit.local.solver import Vectorized
from fedprofit.runs.trials import check_trials
from fedprofit.tuner.base import Tuner


@dataclass(frozen=True)
class Bench:
    """Everything that is fixed before the first round."""

    config: Config
    engine: Engine
    dataset: FederatedDataset
    start: Params  # the one initialization of all clients
    sets: Sets  # the test clients and what they are scored on
    validation: Examples  # the global validation set; empty without validation clients
    rules: Rules  # how answers are compared with references

    def train_examples(self, client: ClientId) -> Examples:
        """Return a client's own train examples."""
        return self.dataset.examples(client, "train")

    @property
    def solver(self) -> LocalSolver:
        """What computes the clients' training."""
        return Vectorized(self.engine, self.tuner)

    @property
    def tuner(self) -> Tuner:
        """What clients own and train."""
        return self.config.tuner.build()

    def of_validation_clients(self) -> "Bench":
        """Return the same bench with the validation clients in the test clients' place.

        They are scored as those are, on test examples of their own and of their pool. None of these is in
        the set that rounds and trials are chosen by.
        """
        return replace(self, sets=draw_sets(self.dataset, "validation", self.config))


def prepare(config: Config, dtype: str | None = None) -> Bench:
    """Load the backbone and the data of a configuration and draw its fixed sets.

    `dtype` is the number type where the configuration leaves it to the machine.

    Raises UserError for whatever cannot be used, by name.
    """
    check_trials(config)
    prepare_clients(config.data, config.seed)  # first: what is wrong with the data shows before a model loads
    settings = config.in_type(dtype or "auto").backbone
    backbone = load_backbone(settings.name, settings.dtype, settings.device)
    dataset = open_dataset(config.data, backbone, config.seed)
    _check_context(config, backbone, dataset)
    reach = config.tuner.tokens + dataset.store.longest() + config.evaluation.max_new_tokens
    engine = make_engine(backbone, settings.attention, settings.token_budget, settings.workers, reach)
    _check_clients(config, dataset)
    count, seed = config.evaluation.global_examples, config.seed
    validation = stratified(dataset.pooled("validation", "validation"), count, seed, "global validation")
    start = config.tuner.build().init(backbone, seed)
    rules = choose_rules(config.evaluation, config.data.source, *dataset.store.unread_targets())
    return Bench(config, engine, dataset, start, draw_sets(dataset, "test", config), validation, rules)


def draw_sets(dataset: FederatedDataset, group: Group, config: Config) -> Sets:
    """Draw what the clients of a group are scored on."""
    evaluation, seed, clients = config.evaluation, config.seed, list(dataset.clients(group))
    purpose = "global" if group == "test" else f"global of {group} clients"
    shared = {"global": stratified(dataset.pooled(group, "test"), evaluation.global_examples, seed, purpose)}
    if group == "test":
        shared["unseen"] = stratified(dataset.unseen, evaluation.unseen_examples, seed, "unseen")
    return Sets(
        clients=clients,
        local={client: dataset.examples(client, "test") for client in clients},
        validation={client: dataset.examples(client, "validation") for client in clients},
        shared=shared,
    )


def typical_tokens(bench: Bench) -> tuple[float, float, float]:
    """Return the mean tokens of prefix, source and target over the local test sets, for estimates."""
    examples = [example for own in bench.sets.local.values() for example in own[:32]]
    parts = np.array([[len(e.prefix), len(e.source), len(e.target)] for e in examples])
    prefix, source, target = parts.mean(0).tolist()
    return prefix, source, target


def _check_clients(config: Config, dataset: FederatedDataset) -> None:
    train, validation, test = (len(dataset.clients(group)) for group in SPLITS)
    if not train or not test:
        raise UserError(
            f"data.clients: there are {train} train and {test} test clients; a run needs at least one of "
            "each."
        )
    wants = []
    if any(len(trials) > 1 for trials in config.training.methods.values()):  # then baselines have as many
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
