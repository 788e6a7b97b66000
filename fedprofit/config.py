"""Typed, strict configuration: one frozen record of all that a run computes, and a content hash of it.

Every key is checked (an unknown one is answered with the nearest valid one), every value has a type
and a range, and what is not written has a default that this file states. A configuration says what a
run computes; where it is written and how it is shown are arguments of the command. `config_file.py`
reads and writes it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from fedprofit.config_base import (
    ONE,
    SEVERAL,
    Beta,
    Count,
    Fraction,
    Metric,
    Name,
    OneOrSeveral,
    Positive,
    Rate,
    Section,
    Weight,
)
from fedprofit.data.settings import DataConfig
from fedprofit.files import content_hash


class BackboneConfig(Section):
    """The frozen language model and how it is computed."""

    name: str = "smollm2-135m-q4"  # a named backbone, a folder, a .gguf file, or a hub id owner/name
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    # packed: all tokens of all clients in one flat row; fused: packed, and Llama's layers by compiled loops
    # (CPU); eager, sdpa: the model's own padded attention; auto: the first of fused and packed that is
    # verified, at load, to equal the model's own, else eager.
    attention: Literal["auto", "fused", "packed", "eager", "sdpa"] = "auto"
    # tokens in flight at once: bounds memory; another budget rounds sums otherwise, in every number type
    token_budget: Positive = 2048
    # processes that share the budget, one core each; auto: one a core, on a GPU one
    workers: Positive | Literal["auto"] = "auto"


class TunerConfig(Section):
    """What a client owns: a soft prompt, one initialization for all."""

    kind: Literal["prompt"] = "prompt"
    length: Positive = 20
    init: Literal["vocabulary", "text"] = "vocabulary"
    text: str | None = None

    @model_validator(mode="after")
    def _text_is_given(self) -> Self:
        if (self.init == "text") != (self.text is not None):
            raise ValueError("init: text needs a text, and no other init takes one")
        return self


class Optimizer(Section):
    """A client's optimizer; its state starts fresh every time."""

    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    rate: Rate = 0.03
    momentum: Fraction = 0.9
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Rate = 1e-8
    weight_decay: Weight = 0.0


class ServerOptimizer(Section):
    """The server's optimizer over the averaged client deltas (Reddi et al. 2021)."""

    optimizer: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = "sgd"
    rate: Rate = 1.0
    momentum: Fraction = 0.9
    beta1: Beta = 0.9
    beta2: Beta = 0.99
    tau: Rate = 1e-3  # degree of adaptivity


class LocalWork(Section):
    """How long a client trains: steps, or epochs over its data, on batches of this size."""

    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: Positive = 4

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def local_work(self, examples: float) -> tuple[float, float]:
        """Return the local steps of a client with that many examples, and how many rows each step reads."""
        steps = self.steps or (self.epochs or 0) * -(-examples // self.batch_size)
        return steps, min(self.batch_size, examples)


class Trial(Section):
    """An algorithm with its hyperparameters, by itself or as one of several trials of a method."""

    name: Name
    # Entries that name the same method are its trials: the one whose last round has the least loss on the
    # validation clients stands for it, under its name, in all results. Every method gets as many trials.
    method: Name | None = None

    @property
    def stands_for(self) -> str:
        """The name that results have."""
        return self.method or self.name


class FedAvgConfig(LocalWork, Trial):
    """FedAvg: local steps, averaged deltas, a server optimizer."""

    kind: Literal["fedavg"]
    client: Optimizer = Optimizer()
    server: ServerOptimizer = ServerOptimizer()
    weights: Literal["examples", "uniform"] = "examples"


class FedSgdConfig(Trial):
    """FedSGD: one gradient a client and round, averaged, a server optimizer."""

    kind: Literal["fedsgd"]
    batch_size: Positive | Literal["full"] = 16
    server: ServerOptimizer = ServerOptimizer()
    weights: Literal["examples", "uniform"] = "examples"

    def local_work(self, examples: float) -> tuple[float, float]:
        """Return one step, and how many rows it reads of a client with that many examples."""
        return 1, examples if self.batch_size == "full" else min(self.batch_size, examples)


AlgorithmConfig = Annotated[FedAvgConfig | FedSgdConfig, Field(discriminator="kind")]


class TrainingConfig(Section):
    """Federated training of one prompt for each algorithm."""

    rounds: Positive = 10
    cohort: Positive = 8  # clients a round; all of them where there are fewer
    evaluate_every: Positive = 5  # rounds between scores on the global validation set (loss)
    algorithms: tuple[AlgorithmConfig, ...]

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if not self.algorithms:
            raise ValueError("algorithms is empty; name at least one")
        trials = {name: len(entries) for name, entries in self.methods.items()}
        if len(set(trials.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in trials.items())
            raise ValueError(f"algorithms: give every method the same number of trials ({found})")
        return self

    @property
    def methods(self) -> dict[str, list[AlgorithmConfig]]:
        """The algorithms by what they stand for: each method's trials."""
        found: dict[str, list[AlgorithmConfig]] = {}
        for entry in self.algorithms:
            found.setdefault(entry.stands_for, []).append(entry)
        return found


class FineTune(LocalWork):
    """Fine-tuning of a prompt on one client's data."""

    name: Name
    client: Optimizer = Optimizer(rate=0.003)
    pull: Weight = 0.0  # weight of the L2 pull to where it started, lambda
    evaluate_at: tuple[Positive, ...] = ()  # steps; the last is always evaluated
    interpolation: tuple[Fraction, ...] = ()  # alpha: alpha x personal + (1 - alpha) x federated
    interpolate_at: Literal["last", "all"] = "last"  # each alpha costs a full scoring
    start: Literal["last", "best"] = "last"  # the federated prompt of the last or best-on-validation round


class Personalization(FineTune):
    """Fine-tuning of federated prompts by each client."""

    algorithms: tuple[Name, ...] | None = None  # whose prompts, by what results call them; all if not given


# One training, or several trials of it, of which the validation clients choose one.
Baseline = Annotated[
    Annotated[FineTune, Tag(ONE)] | Annotated[tuple[FineTune, ...], Field(min_length=1), Tag(SEVERAL)],
    OneOrSeveral,
]


class BaselineConfig(Section):
    """The baselines that need training; the base model and the federated prompt need none."""

    local: Baseline | None = FineTune(name="local", steps=40, client=Optimizer(rate=0.03))
    central: Baseline | None = FineTune(name="central", steps=40, batch_size=32, client=Optimizer(rate=0.03))

    @model_validator(mode="after")
    def _central_lies_between_nothing(self) -> Self:
        if any(entry.interpolation for entry in self.trials.get("central", ())):
            raise ValueError("central: there is no prompt to interpolate with, leave out interpolation")
        return self

    @property
    def trials(self) -> dict[str, list[FineTune]]:
        """The entries of each baseline that is asked for."""
        found = {name: getattr(self, name) for name in BaselineConfig.model_fields}
        return {
            name: [entry] if isinstance(entry, FineTune) else list(entry)
            for name, entry in found.items()
            if entry is not None
        }


class EvaluationConfig(Section):
    """What is scored, and on how much."""

    metrics: tuple[Metric, ...] = ("loss", "rouge_l", "exact_match")
    # What ROUGE-L and exact match compare; `evaluate/rules.py` says what auto chooses, once for a data set.
    # rouge-score: words of a to z and 0 to 9, stemmed; unicode: words of any script, else the same.
    rouge_tokenizer: Literal["auto", "rouge-score", "unicode"] = "auto"
    # sni: without case and punctuation; strict: with both; numeric: numbers by value, all else as strict.
    exact_match: Literal["auto", "sni", "strict", "numeric"] = "auto"
    max_new_tokens: Positive = 128
    global_examples: Positive = 64
    unseen_examples: Count = 32
    # Text metrics at the last evaluation point; also at the one with the least local validation loss, over
    # all clients; or at all. Loss is scored at all.
    generate: Literal["last", "best", "all"] = "last"
    # Also personalize the validation clients and score them as the test clients are, on test examples of
    # their own and of their pool, into a table of its own: what a choice among settings may be made by.
    validation: bool = False

    @model_validator(mode="after")
    def _metrics_are_distinct(self) -> Self:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metrics: name at least one, and each once")
        return self


class Config(Section):
    """A whole run."""

    name: Name
    seed: Count = 0
    backbone: BackboneConfig = BackboneConfig()
    data: DataConfig
    tuner: TunerConfig = TunerConfig()
    training: TrainingConfig
    personalization: tuple[Personalization, ...] = ()
    baselines: BaselineConfig = BaselineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        for what, names in (
            ("training.algorithms", [a.name for a in self.training.algorithms]),
            ("training.algorithms and the baselines' trials", self.trained),
            ("personalization", [p.name for p in self.personalization]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: two entries have the same name; names must be distinct")
        return self

    @model_validator(mode="after")
    def _stages_are_distinct(self) -> Self:
        """A run's stages, and the prompts they leave, are known by the two names joined by a hyphen."""
        known: dict[str, tuple[str, str]] = {}
        for method in self.training.methods:
            for entry in self.personalizations(method):
                pair = (method, entry.name)
                other = known.setdefault("-".join(pair), pair)
                if other != pair:
                    raise ValueError(
                        f"personalization: {entry.name!r} of {method!r} and {other[1]!r} of {other[0]!r} "
                        f"would both be called {'-'.join(pair)!r}; rename one of the four"
                    )
        return self

    @model_validator(mode="after")
    def _personalized_algorithms_are_there(self) -> Self:
        there = self.training.methods
        for entry in self.personalization:
            unknown = [name for name in entry.algorithms or () if name not in there]
            if entry.algorithms == () or unknown:
                found = f"names {unknown[0]!r}" if unknown else "is empty"
                raise ValueError(
                    f"personalization: algorithms of {entry.name!r} {found}; name some of "
                    f"{', '.join(there)}, or leave it out for all"
                )
        return self

    def personalizations(self, method: str) -> list[Personalization]:
        """Return how the prompts of an algorithm are personalized, by what results call it."""
        return [one for one in self.personalization if one.algorithms is None or method in one.algorithms]

    @property
    def trained(self) -> list[str]:
        """The names of all that leaves a record: the algorithms, and the trials of baselines with several."""
        several = [trials for trials in self.baselines.trials.values() if len(trials) > 1]
        return [one.name for one in self.training.algorithms] + [one.name for each in several for one in each]

    def in_type(self, dtype: str) -> "Config":
        """Return the configuration with a number type where it leaves that to the machine."""
        if self.backbone.dtype != "auto":
            return self
        return self.model_copy(update={"backbone": self.backbone.model_copy(update={"dtype": dtype})})

    @property
    def hash(self) -> str:
        """Content hash: equal for equal configurations, whatever the order of their keys."""
        return content_hash(self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """Return the whole configuration, defaults included, as plain JSON-like values."""
        mapping: dict[str, Any] = self.model_dump(mode="json")
        return mapping
