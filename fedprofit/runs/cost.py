"""The cost of each stage of a run, counted before it runs.

The unit is one token read forward; training and generation are weighted relative to it. Costs are used for
the remaining time and for estimates before a start. They do not affect results.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedprofit.algorithm.base import AlgorithmSettings
from fedprofit.baseline.base import BaselineSettings
from fedprofit.config.run import Config
from fedprofit.core.types import Example
from fedprofit.personalization.base import PersonalizationSettings
from fedprofit.runs.bench import Bench, typical_tokens

# Training costs two products per weight, as frozen weights have no gradient: forward and backward.
# Measured: 1.75 to 2.3 on a core without bfloat16, with SmolLM2-135M in float32. A token generated there
# costs about 2.7 read, in batches of hundreds. On a core with bfloat16, these values make the speeds of the
# stages of a run of the paper's study more equal than 3 and 1.5: 702 to 905 tokens/s instead of 585 to 1,333,
# except for the stage of the federated prompt.
TRAINED, GENERATED = 2.0, 2.5
LOOKED_AT = 256  # maximum examples of a client, or of the pool, whose prefixes are counted


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data, from which costs are counted: examples, and tokens per example."""

    prompt: float  # tokens
    prefix: float  # tokens
    source: float  # tokens
    target: float  # tokens
    prefixes: float  # distinct prefixes of a client's train examples, as if equally frequent
    repeated: float  # prefix reads per scored example
    local: float  # examples that only one client's prompt is scored on
    shared: float  # examples that every prompt is scored on
    checked: float  # the client's validation examples, scored by loss only
    clients: int  # personalized clients
    train_examples: float  # per client

    def trained(self, clients: float, steps: float, rows: float, prefixes: float | None = None) -> float:
        """Return the cost of local steps for `clients`: `rows` examples with `prefixes` distinct prefixes."""
        among = prefixes or self.prefixes
        read: float = among * (1 - (1 - 1 / among) ** rows)  # expected distinct prefixes in a batch
        shared = read * (self.prompt + self.prefix)
        return TRAINED * clients * steps * (shared + rows * (self.source + self.target))

    def scored(self, examples: float, new_tokens: float) -> float:
        """Return the cost of scoring examples with `new_tokens` generated tokens each; 0 for loss only."""
        read = self.source + self.target + self.repeated * (self.prompt + self.prefix)
        return examples * (read + GENERATED * new_tokens)

    def answered(self, config: Config, examples: float, trained: bool = True) -> float:
        """Cost of scoring that many examples by every metric."""
        if not any(metric.needs_text for metric in config.evaluation.metrics):
            return self.scored(examples, 0)
        # Answers of trained prompts are about as long as the references; the base model does not stop.
        most = config.evaluation.max_new_tokens
        return self.scored(examples, min(most, 1.5 * self.target) if trained else most)

    def once(self, config: Config, trained: bool = True) -> float:
        """Return the cost of scoring one prompt that all clients share, or the base model."""
        checks = self.scored(self.clients * self.checked, 0)
        return self.answered(config, self.clients * self.local + self.shared, trained) + checks

    def each(self, config: Config) -> float:
        """Cost of scoring one prompt of each client."""
        own = self.clients * (self.local + self.shared)
        return self.answered(config, own) + self.scored(self.clients * self.checked, 0)

    def tuned(self, config: Config, settings: PersonalizationSettings | BaselineSettings) -> float:
        """Return the cost of fine-tuning every client and scoring it at each step and alpha."""
        steps, rows = settings.per_client(self.train_examples)
        points = len([step for step in settings.evaluate_at if step < steps]) + 1
        alphas = len(settings.interpolation)
        generate, one = config.evaluation.generate, self.clients * (self.local + self.shared)
        answered = {"last": 1, "best": min(points, 2), "all": points}[generate] + alphas
        mixed = (points - 1) * alphas if settings.interpolate_at == "all" else 0
        answered += mixed if generate == "all" else 0
        served = round(sum(predictor.passes for predictor in settings.predictors))
        every = points + alphas + mixed + served
        answered += served
        checks = every * self.scored(self.clients * self.checked, 0)
        read = self.trained(self.clients, steps, rows) + (every - answered) * self.scored(one, 0)
        return read + answered * self.answered(config, one) + checks


def measure(bench: Bench) -> Sizes:
    """Measure the sizes of the data."""
    prefix, source, target = typical_tokens(bench)
    sets, clients = bench.sets, len(bench.sets.clients)
    trained = [bench.train_examples(client) for client in sets.clients]
    shared = [example for examples in sets.shared.values() for example in examples]
    scored = [[*own, *shared] for own in sets.local.values()]
    return Sizes(
        prompt=bench.config.tuner.tokens,
        prefix=prefix,
        source=source,
        target=target,
        prefixes=sum(_prefixes(own[:LOOKED_AT]) for own in trained) / clients,
        repeated=sum(len(_by_prefix(examples)) for examples in scored) / max(1, sum(map(len, scored))),
        local=sum(map(len, sets.local.values())) / clients,
        shared=len(shared),
        checked=sum(map(len, sets.validation.values())) / clients,
        clients=clients,
        train_examples=sum(map(len, trained)) / clients,
    )


def _by_prefix(examples: Sequence[Example]) -> Counter[bytes]:
    return Counter(example.prefix.tobytes() for example in examples)


def _prefixes(examples: Sequence[Example]) -> float:
    """Return the number of equally frequent prefixes with the same collision probability."""
    counts = _by_prefix(examples).values()
    return sum(counts) ** 2 / sum(count**2 for count in counts) if counts else 1.0


def of_baseline(bench: Bench, sizes: Sizes, entry: BaselineSettings, has_trials: bool) -> tuple[float, float]:
    """Return the cost of a baseline's trial and of its final stage; `has_trials`: it has several trials."""
    config, dataset = bench.config, bench.dataset
    if not entry.is_trained:
        before = entry.extra_tokens(round(sizes.source + sizes.target))
        extended = replace(sizes, prompt=0, prefix=sizes.prefix + before)
        return 0.0, 0.0 if entry.answers_without_model else extended.each(config)
    if entry.is_shared:
        pool = dataset.pooled("train", "train")
        prefixes = _prefixes(pool[:: max(1, len(pool) // LOOKED_AT)])
        read = sizes.trained(1, *entry.per_client(len(pool)), prefixes)
        # The final stage reuses the trial's parameters.
        return read + sizes.scored(len(bench.validation), 0), (0 if has_trials else read) + sizes.once(config)
    clients = len(dataset.clients("validation"))
    read = sizes.trained(clients, *entry.per_client(sizes.train_examples))
    return read + sizes.scored(len(dataset.pooled("validation", "validation")), 0), sizes.tuned(config, entry)


def of_training(bench: Bench, sizes: Sizes, trial: AlgorithmSettings) -> float:
    """Return the cost of federated training and its evaluations."""
    training = bench.config.training
    steps, rows = trial.per_client(sizes.train_examples)
    cohort = min(training.cohort, len(bench.dataset.clients("train")))
    checks = -(-training.rounds // training.evaluate_every)
    read = training.rounds * sizes.trained(cohort, steps, rows)
    return read + checks * sizes.scored(len(bench.validation), 0)


def expected_bytes(config: Config, width: int, clients: int) -> int:
    """Estimate what a run's folder will hold: prompts, checkpoints, tables."""
    prompt = 4 * config.tuner.expected_numbers(width)
    training = config.training
    personal = [one for method in training.methods for one in config.personalizations(method)]
    tuned = sum(1 + len(settings.evaluate_at) for settings in personal)
    federated = 4 * len(training.algorithms) + 2 * len(training.methods)
    tuning = clients + (config.data.clients.validation if config.evaluation.validation else 0)
    return prompt * (federated + tuned * tuning + clients + 1) + 2_000_000
