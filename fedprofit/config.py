"""Typed, strict configuration: one frozen record of all that a run computes, and a content hash of it.

Every key is checked (an unknown one is answered with the nearest valid one), every value has a type
and a range, and what is not written has a default that this file states. A configuration says what a
run computes; where it is written and how it is shown are arguments of the command. `config_file.py`
reads and writes it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedprofit.files import content_hash

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Metric = Literal["loss", "rouge_l", "exact_match"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BackboneConfig(Section):
    """The frozen language model and how it is computed."""

    name: str = "smollm2-135m-q4"  # a named backbone, a folder, a .gguf file, or a hub id owner/name
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    # packed: all tokens of all clients in one flat row; fused: packed, and Llama's layers by compiled loops
    # (CPU); eager, sdpa: the model's own padded attention; auto: the first of fused and packed that is
    # verified, at load, to equal the model's own, else eager.
    attention: Literal["auto", "fused", "packed", "eager", "sdpa"] = "auto"
    token_budget: Positive = 1024  # tokens in flight at once: bounds memory, changes no result
    # processes that share the budget, one core each; auto: one a core, on a GPU one
    workers: Positive | Literal["auto"] = "auto"


class LexiconSource(Section):
    """The embedded tasks: nothing to download."""

    kind: Literal["lexicon"]
    tasks: tuple[str, ...] = ()  # empty: all
    categories: tuple[str, ...] = ()
    instances: Positive = 240  # at most, a task


class SniSource(Section):
    """Super-NaturalInstructions: a folder of task JSON files, or a Parquet table."""

    kind: Literal["sni"]
    path: str
    tasks: tuple[str, ...] = ()  # names such as task073_commonsenseqa_answer_generation, or numbers "73"
    categories: tuple[str, ...] = ()
    instances: Positive | None = None  # at most, a task
    max_tasks: Positive | None = None  # a seeded choice of this many of the tasks that pass
    min_instances: Positive = 1  # tasks with fewer are left out
    max_words: Positive | None = None  # instances with a longer definition, input or target are left out


class Columns(Section):
    """The columns of a user's own table; only input and target must be there."""

    input: str = "input"
    target: str = "target"  # text, or a list of references
    client: str | None = None
    definition: str | None = None
    task: str | None = None
    category: str | None = None
    split: str | None = None


class TableSource(Section):
    """The user's own JSONL, CSV or Parquet file."""

    kind: Literal["table"]
    path: str
    columns: Columns = Columns()


class HubSource(Section):
    """A data set of the Hugging Face hub, or a local folder in its format."""

    kind: Literal["hub"]
    name: str
    subset: str | None = None
    revision: str | None = None
    columns: Columns = Columns()


Source = Annotated[LexiconSource | SniSource | TableSource | HubSource, Field(discriminator="kind")]


class TemplateConfig(Section):
    """How an instance becomes text, after Super-NaturalInstructions' own evaluation."""

    definition: bool = True  # without it, the prompt must carry the task alone
    positive_examples: Count = 0
    max_tokens: Positive = 1024  # of definition, input and target together; longer ones are trimmed


class Partition(Section):
    """How instances become clients, from most to least heterogeneous."""

    # auto: natural where the source names a client column, else task
    kind: Literal["auto", "task", "category", "tasks", "dirichlet", "iid", "natural", "flwr"] = "auto"
    tasks_per_client: Positive = 2  # for kind: tasks
    alpha: Rate = 0.5  # for kind: dirichlet
    over: Literal["task", "category"] = "task"  # for kind: dirichlet
    quantity_skew: Weight = 0.0  # standard deviation of the log of the clients' sizes
    partitioner: str | None = None  # for kind: flwr, a class of flwr_datasets.partitioner
    options: dict[str, Any] = {}  # for kind: flwr, its arguments


class Groups(Section):
    """How many clients, or how many examples a client, for each of three purposes."""

    train: Count
    validation: Count
    test: Count


class DataConfig(Section):
    """The federated data set: source, template, partition."""

    source: Source
    template: TemplateConfig = TemplateConfig()
    partition: Partition = Partition()
    clients: Groups = Groups(train=8, validation=2, test=4)
    examples: Groups | None = Groups(train=48, validation=16, test=16)  # a client; null: all it has
    unseen_tasks: Count | tuple[str, ...] = 0  # held out from every client: how many, or which


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
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Rate = 1e-8
    weight_decay: Weight = 0.0


class ServerOptimizer(Section):
    """The server's optimizer over the averaged client deltas (Reddi et al. 2021)."""

    optimizer: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = "sgd"
    rate: Rate = 1.0
    momentum: Fraction = 0.9
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
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


class FedAvgConfig(LocalWork):
    """FedAvg: local steps, averaged deltas, a server optimizer."""

    kind: Literal["fedavg"]
    name: Name
    client: Optimizer = Optimizer()
    server: ServerOptimizer = ServerOptimizer()
    weights: Literal["examples", "uniform"] = "examples"


class FedSgdConfig(Section):
    """FedSGD: one gradient a client and round, averaged, a server optimizer."""

    kind: Literal["fedsgd"]
    name: Name
    batch_size: Positive | Literal["full"] = 16
    server: ServerOptimizer = ServerOptimizer()
    weights: Literal["examples", "uniform"] = "examples"


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
        return self


class FineTune(LocalWork):
    """Fine-tuning of a prompt on one client's data."""

    name: Name
    client: Optimizer = Optimizer(rate=0.003)
    pull: Weight = 0.0  # weight of the L2 pull to where it started, lambda
    evaluate_at: tuple[Positive, ...] = ()  # steps; the last is always evaluated
    interpolation: tuple[Fraction, ...] = ()  # alpha: alpha x personal + (1 - alpha) x federated
    start: Literal["last", "best"] = "last"  # the federated prompt of the last or best-on-validation round


class BaselineConfig(Section):
    """The baselines that need training; the base model and the federated prompt need none."""

    local: FineTune | None = FineTune(name="local", steps=40, client=Optimizer(rate=0.03))
    central: FineTune | None = FineTune(name="central", steps=40, batch_size=32, client=Optimizer(rate=0.03))


class EvaluationConfig(Section):
    """What is scored, and on how much."""

    metrics: tuple[Metric, ...] = ("loss", "rouge_l", "exact_match")
    max_new_tokens: Positive = 128
    global_examples: Positive = 64
    unseen_examples: Count = 32
    generate: Literal["last", "all"] = "last"  # generation metrics at the last evaluation point, or at all

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
    personalization: tuple[FineTune, ...] = ()
    baselines: BaselineConfig = BaselineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        for what, names in (
            ("training.algorithms", [a.name for a in self.training.algorithms]),
            ("personalization", [p.name for p in self.personalization]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: two entries have the same name; names must be distinct")
        return self

    @property
    def hash(self) -> str:
        """Content hash: equal for equal configurations, whatever the order of their keys."""
        return content_hash(self.to_mapping())

    def to_mapping(self) -> dict[str, Any]:
        """Return the whole configuration, defaults included, as plain JSON-like values."""
        mapping: dict[str, Any] = self.model_dump(mode="json")
        return mapping
