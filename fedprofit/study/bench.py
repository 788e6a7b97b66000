"""What the stages of a run share: the engine, the data, the test clients and their sets."""

from dataclasses import dataclass

import numpy as np

from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.load import load_backbone
from fedprofit.config import Config
from fedprofit.data.federated import FederatedDataset, open_dataset, stratified
from fedprofit.data.store import Examples
from fedprofit.errors import UserError
from fedprofit.evaluate.clients import Sets
from fedprofit.tuner.prompt import initial_prompt
from fedprofit.types import ClientId, Params


@dataclass(frozen=True)
class Bench:
    """Everything that is fixed before the first round."""

    config: Config
    engine: Engine
    dataset: FederatedDataset
    start: Params  # the one initialization of every prompt
    clients: list[ClientId]  # the test clients
    sets: Sets
    validation: Examples  # the global validation set; empty without validation clients


def prepare(config: Config) -> Bench:
    """Load the backbone and the data of a configuration and draw its fixed sets.

    Raises UserError for whatever cannot be used, by name.
    """
    backbone = load_backbone(config.backbone.name, config.backbone.dtype, config.backbone.device)
    settings = config.backbone
    engine = make_engine(backbone, settings.attention, settings.token_budget, settings.workers)
    dataset = open_dataset(config.data, backbone, config.seed)
    _check_context(config, engine, dataset)
    clients = list(dataset.clients("test"))
    if not clients or not dataset.clients("train"):
        raise UserError(
            f"data.clients: there are {len(dataset.clients('train'))} train and {len(clients)} test clients; "
            "a run needs at least one of each."
        )
    evaluation, seed = config.evaluation, config.seed
    shared = {
        "global": stratified(dataset.pooled("test", "test"), evaluation.global_examples, seed, "global"),
        "unseen": stratified(dataset.unseen, evaluation.unseen_examples, seed, "unseen"),
    }
    sets = Sets(
        clients=clients,
        local={client: dataset.examples(client, "test") for client in clients},
        validation={client: dataset.examples(client, "validation") for client in clients},
        shared=shared,
    )
    validation = stratified(
        dataset.pooled("validation", "validation"), evaluation.global_examples, seed, "global validation"
    )
    start = initial_prompt(backbone, config.tuner.length, seed, config.tuner.text)
    return Bench(config, engine, dataset, start, clients, sets, validation)


def pooled_train(bench: Bench) -> Examples:
    """Return the train examples of all train clients together, for central training."""
    return bench.dataset.pooled("train", "train")


def typical_tokens(bench: Bench) -> tuple[float, float, float]:
    """Return the mean tokens of prefix, source and target over the local test sets, for estimates."""
    examples = [example for own in bench.sets.local.values() for example in own[:32]]
    parts = np.array([[len(e.prefix), len(e.source), len(e.target)] for e in examples])
    prefix, source, target = parts.mean(0).tolist()
    return prefix, source, target


def _check_context(config: Config, engine: Engine, dataset: FederatedDataset) -> None:
    context = engine.backbone.context_length
    needed = config.tuner.length + dataset.store.longest()
    if context is not None and needed > context:
        raise UserError(
            f"backbone {engine.backbone.name!r}: reads at most {context} tokens, but the longest example has "
            f"{dataset.store.longest()} and the prompt {config.tuner.length} ({needed} in all). Lower "
            "data.template.max_tokens or tuner.length."
        )
