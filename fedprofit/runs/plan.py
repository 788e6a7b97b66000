"""What a run will do, stage by stage, and how much work each stage is.

Work is counted in tokens read forward once; training and generation are weighed against that. It
serves the progress bar's time left and the estimate before a start, and changes no result.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedprofit.algorithm.base import AlgorithmSettings
from fedprofit.config.run import Config
from fedprofit.core.types import Example
from fedprofit.personalization.base import PersonalizationSettings
from fedprofit.personalization.finetune import FineTune
from fedprofit.runs.bench import Bench, typical_tokens
from fedprofit.runs.folder import TRAIN, TRY

# A token trained on costs two tokens read, as the frozen weights have no gradient: there and back is two
# products of each. Measured: 1.75 to 2.3 on a core without bfloat16, with SmolLM2-135M in float32. A token
# generated there costs about 2.7 read, in batches of hundreds. On a core with bfloat16 the two make the
# speeds of the stages of a run of the paper's study more alike than 3 and 1.5 did: 702 to 905 tokens/s, 585
# to 1,333 before, but for the federated prompt's.
TRAINED, GENERATED = 2.0, 2.5
LOOKED_AT = 256  # examples of a client, or of the pool, whose prefixes are counted


@dataclass(frozen=True)
class Work:
    """Sizes that every stage's work is counted from."""

    prompt: float  # tokens
    prefix: float
    source: float
    target: float
    prefixes: float  # different ones among a client's train examples, as if equally frequent
    repeated: float  # how often a prefix is read, for each example that is scored
    local: float  # examples that a client's prompt is scored on alone
    shared: float  # and those that every prompt is scored on
    checked: float  # and those of the client's own, beside them, by loss alone
    clients: int  # that are personalized
    train_examples: float  # of each

    def trained(self, clients: float, steps: float, rows: float, prefixes: float | None = None) -> float:
        """Work of local steps of `rows` examples, among which are some `prefixes`, by each of `clients`."""
        among = prefixes or self.prefixes
        read: float = among * (1 - (1 - 1 / among) ** rows)  # how many of them a batch is expected to hold
        shared = read * (self.prompt + self.prefix)
        return TRAINED * clients * steps * (shared + rows * (self.source + self.target))

    def scored(self, examples: float, new_tokens: float) -> float:
        """Work of scoring that many examples, with so many new tokens each; 0 for the loss alone."""
        read = self.source + self.target + self.repeated * (self.prompt + self.prefix)
        return examples * (read + GENERATED * new_tokens)

    def answered(self, config: Config, examples: float, trained: bool = True) -> float:
        """Work of scoring that many examples by every metric."""
        if all(metric == "loss" for metric in config.evaluation.metrics):
            return self.scored(examples, 0)
        # Trained prompts answer at about the length of the references; the base model runs on.
        most = config.evaluation.max_new_tokens
        return self.scored(examples, min(most, 1.5 * self.target) if trained else most)

    def once(self, config: Config, trained: bool = True) -> float:
        """Work of scoring one prompt that all clients share, or the base model."""
        checks = self.scored(self.clients * self.checked, 0)
        return self.answered(config, self.clients * self.local + self.shared, trained) + checks

    def tuned(self, config: Config, settings: PersonalizationSettings) -> float:
        """Work of fine-tuning by every client and scoring it along its steps and alphas."""
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


def measure(bench: Bench) -> Work:
    """Take the sizes from the data."""
    prefix, source, target = typical_tokens(bench)
    sets, clients = bench.sets, len(bench.sets.clients)
    trained = [bench.train_examples(client) for client in sets.clients]
    shared = [example for examples in sets.shared.values() for example in examples]
    scored = [[*own, *shared] for own in sets.local.values()]
    return Work(
        prompt=bench.config.tuner.tokens,
        prefix=prefix,
        source=source,
        target=target,
        prefixes=sum(_prefixes(own[:LOOKED_AT]) for own in trained) / clients,
        repeated=sum(len(_by_prefix(whole)) for whole in scored) / max(1, sum(map(len, scored))),
        local=sum(map(len, sets.local.values())) / clients,
        shared=len(shared),
        checked=sum(map(len, sets.validation.values())) / clients,
        clients=clients,
        train_examples=sum(map(len, trained)) / clients,
    )


def _by_prefix(examples: Sequence[Example]) -> Counter[bytes]:
    return Counter(example.prefix.tobytes() for example in examples)


def _prefixes(examples: Sequence[Example]) -> float:
    """Return how many equally frequent prefixes two examples would be as likely to share."""
    counts = _by_prefix(examples).values()
    return sum(counts) ** 2 / sum(count**2 for count in counts) if counts else 1.0


def stages(bench: Bench) -> dict[str, float]:
    """Return every stage of a run, in order, with its work."""
    config, work = bench.config, measure(bench)
    groups = {"": work}
    if config.evaluation.validation:
        groups["validation-"] = measure(bench.of_validation_clients())
    plan = {"base": work.once(config, trained=False)}
    for method, trials in config.training.methods.items():
        for trial in trials:
            plan[f"{TRAIN}{trial.name}"] = _training(bench, work, trial)
        for group, own in groups.items():
            plan[f"{group}federated-{method}"] = 2 * own.once(config)
            for settings in config.personalizations(method):
                plan[f"{group}personalized-{method}-{settings.name}"] = own.tuned(config, settings)
    return plan | _baselines(bench, work)


def _baselines(bench: Bench, work: Work) -> dict[str, float]:
    """Work of the baselines and of their trials."""
    config, dataset, plan = bench.config, bench.dataset, dict[str, float]()
    clients, pool = len(dataset.clients("validation")), dataset.pooled("train", "train")
    prefixes = _prefixes(pool[:: max(1, len(pool) // LOOKED_AT)])

    def local(entry: FineTune) -> tuple[float, float]:
        steps, rows = entry.per_client(work.train_examples)
        checked = work.scored(len(dataset.pooled("validation", "validation")), 0)
        return work.trained(clients, steps, rows) + checked, work.tuned(config, entry)

    def central(entry: FineTune) -> tuple[float, float]:
        read = work.trained(1, *entry.per_client(len(pool)), prefixes)
        # What a trial has trained is not trained again.
        again = 0 if len(config.baselines.trials["central"]) > 1 else read
        return read + work.scored(len(bench.validation), 0), again + work.once(config)

    for name, entries in config.baselines.trials.items():
        works = {entry.name: (local if name == "local" else central)(entry) for entry in entries}
        if len(entries) > 1:
            plan |= {f"{TRY}{trial}": tried for trial, (tried, _) in works.items()}
        plan[name] = max(whole for _, whole in works.values())
    return plan


def _training(bench: Bench, work: Work, trial: AlgorithmSettings) -> float:
    """Work of federated training and of its checks."""
    training = bench.config.training
    steps, rows = trial.per_client(work.train_examples)
    cohort = min(training.cohort, len(bench.dataset.clients("train")))
    checks = -(-training.rounds // training.evaluate_every)
    read = training.rounds * work.trained(cohort, steps, rows)
    return read + checks * work.scored(len(bench.validation), 0)


def expected_bytes(config: Config, width: int, clients: int) -> int:
    """Estimate what a run's folder will hold: prompts, checkpoints, tables."""
    prompt = 4 * config.tuner.expected_numbers(width)
    training = config.training
    personal = [one for method in training.methods for one in config.personalizations(method)]
    tuned = sum(1 + len(settings.evaluate_at) for settings in personal)
    federated = 4 * len(training.algorithms) + 2 * len(training.methods)
    tuning = clients + (config.data.clients.validation if config.evaluation.validation else 0)
    return prompt * (federated + tuned * tuning + clients + 1) + 2_000_000
