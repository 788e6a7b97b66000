"""What a run will do, stage by stage, and how much work each stage is.

Work is counted in tokens read forward once; training and generation are weighed against that. It
serves the progress bar's time left and the estimate before a start, and changes no result.
"""

from dataclasses import dataclass

from fedprofit.config import Config, FedSgdConfig, FineTune, LocalWork
from fedprofit.study.bench import Bench, typical_tokens

# Measured on two CPU cores with SmolLM2-135M: a token trained on costs about three tokens read, a
# token generated about one and a half.
TRAINED, GENERATED = 3.0, 1.5


@dataclass(frozen=True)
class Work:
    """Sizes that every stage's work is counted from."""

    prompt: float  # tokens
    prefix: float
    source: float
    target: float
    per_prompt: float  # examples that one personalized prompt is scored on, all shared sets included
    clients: int  # test clients

    def trained(self, clients: float, steps: float, rows: float) -> float:
        """Work of `steps` local steps of `rows` examples by each of `clients`."""
        shared = self.prompt + self.prefix
        return TRAINED * clients * steps * (shared + rows * (self.source + self.target))

    def scored(self, examples: float, generate: bool, new_tokens: float) -> float:
        """Work of scoring that many examples, with so many new tokens each where generated."""
        read = self.source + self.target + (self.prompt + self.prefix) / 8
        new = new_tokens if generate else 0
        return examples * (read + GENERATED * new)


def measure(bench: Bench) -> Work:
    """Take the sizes from the data."""
    prefix, source, target = typical_tokens(bench)
    local = sum(len(own) for own in bench.sets.local.values())
    shared = sum(len(examples) for examples in bench.sets.shared.values())
    return Work(
        prompt=bench.config.tuner.length,
        prefix=prefix,
        source=source,
        target=target,
        per_prompt=local / len(bench.clients) + shared,
        clients=len(bench.clients),
    )


def steps_of(work: LocalWork, examples: float) -> float:
    """Count the local steps of a client with that many examples."""
    return work.steps or (work.epochs or 0) * -(-examples // work.batch_size)


def stages(bench: Bench) -> dict[str, float]:
    """Return every stage of a run, in order, with its work."""
    config, work = bench.config, measure(bench)
    train_examples = _mean_examples(bench)
    cohort = min(config.training.cohort, len(bench.dataset.clients("train")))
    shared_prompt = work.clients * (work.per_prompt - _shared(bench)) + _shared(bench)
    generates = any(metric != "loss" for metric in config.evaluation.metrics)

    def scored(examples: float, generate: bool, trained: bool = True) -> float:
        # Trained prompts answer at about the length of the references; the base model runs on.
        most = config.evaluation.max_new_tokens
        return work.scored(
            examples, generate and generates, min(most, 1.5 * work.target) if trained else most
        )

    def tuned(settings: FineTune) -> float:
        """Work of fine-tuning by every test client and scoring it."""
        steps = steps_of(settings, train_examples)
        points = len([step for step in settings.evaluate_at if step < steps]) + 1
        alphas = 1 + len(settings.interpolation)
        generated = points if config.evaluation.generate == "all" else 1
        one = work.clients * work.per_prompt
        rest = (points - generated) * alphas * scored(one, False)
        rows = min(settings.batch_size, train_examples)
        return work.trained(work.clients, steps, rows) + rest + generated * alphas * scored(one, True)

    plan = {"base": scored(shared_prompt, True, trained=False)}
    for algorithm in config.training.algorithms:
        if isinstance(algorithm, FedSgdConfig):
            full = algorithm.batch_size == "full"
            steps, rows = 1.0, train_examples if full else float(algorithm.batch_size)
        else:
            steps, rows = steps_of(algorithm, train_examples), algorithm.batch_size
        checks = -(-config.training.rounds // config.training.evaluate_every)
        rounds = config.training.rounds * work.trained(cohort, steps, min(rows, train_examples))
        plan[f"train-{algorithm.name}"] = rounds + checks * scored(len(bench.validation), False)
        plan[f"federated-{algorithm.name}"] = 2 * scored(shared_prompt, True)
        for settings in config.personalization:
            plan[f"personalized-{algorithm.name}-{settings.name}"] = tuned(settings)
    if config.baselines.local:
        plan["local"] = tuned(config.baselines.local)
    if config.baselines.central:
        central = config.baselines.central
        trained = work.trained(1, steps_of(central, train_examples * cohort), central.batch_size)
        plan["central"] = trained + scored(shared_prompt, True)
    return plan


def _shared(bench: Bench) -> float:
    return sum(len(examples) for examples in bench.sets.shared.values())


def _mean_examples(bench: Bench) -> float:
    sizes = [len(bench.dataset.examples(client, "train")) for client in bench.clients]
    return sum(sizes) / len(sizes)


def expected_bytes(config: Config, width: int, clients: int) -> int:
    """Estimate what a run's folder will hold: prompts, checkpoints, tables."""
    prompt = 4 * config.tuner.length * width
    tuned = sum(1 + len(settings.evaluate_at) for settings in config.personalization)
    algorithms = len(config.training.algorithms)
    return prompt * (algorithms * (6 + tuned * clients) + clients + 1) + 2_000_000
