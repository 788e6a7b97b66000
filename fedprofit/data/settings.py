"""The configuration's part on data: source, template, partition, and how many clients and examples."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from fedprofit.config.base import Count, Positive, Rate, Section, Weight


def _path(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError(
            f"holds data in memory ({type(value).__name__}), which is not supported yet: should be the path "
            "of a file, as text. Write the data to a .parquet, .csv or .jsonl file and give its path"
        )
    if not value or "\0" in value:
        raise ValueError(f"should be the path of a file (found {value[:80]!r})")
    return value


def _one_character(value: str) -> str:
    if len(value) != 1 or value in '"\r\n\0':
        raise ValueError(f"should be one character, and no quote or line break (found {value[:80]!r})")
    return value


FilePath = Annotated[str, BeforeValidator(_path)]
Separator = Annotated[str, AfterValidator(_one_character)]


class LexiconSource(Section):
    """The embedded tasks: nothing to download."""

    kind: Literal["lexicon"]
    tasks: tuple[str, ...] = ()  # empty: all
    categories: tuple[str, ...] = ()
    instances: Positive = 240  # at most, a task


class SniSource(Section):
    """Super-NaturalInstructions: a folder of task JSON files, or a Parquet table."""

    kind: Literal["sni"]
    path: FilePath
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

    def names(self) -> list[str]:
        """Return the distinct names of the columns, sorted."""
        return sorted(set(self.model_dump(exclude_none=True).values()))


class TableSource(Section):
    """The user's own JSONL, CSV or Parquet file."""

    kind: Literal["table"]
    path: FilePath
    columns: Columns = Columns()
    # Of text files, where they are not detected: an encoding as Python calls it, such as utf-8 (the default
    # without a mark at the beginning), utf-16 or cp1252; the one character between the fields of a CSV file.
    encoding: str | None = None
    separator: Separator | None = None


class HubSource(Section):
    """A data set of the Hugging Face hub, or a local folder in its format."""

    kind: Literal["hub"]
    name: str
    subset: str | None = None
    revision: str | None = None
    columns: Columns = Columns()


Source = Annotated[LexiconSource | SniSource | TableSource | HubSource, Field(discriminator="kind")]


def portable(source: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a source's values where on this machine it lies; the name of its file or folder stays.

    >>> portable({"kind": "table", "path": "here/and/there.csv"})
    {'kind': 'table', 'path': 'there.csv'}
    """
    return source | {"path": Path(source["path"]).name} if "path" in source else source


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
    # Which of the clients that are made have validation and test examples: all, or those that are scored
    # (validation and test clients), which leaves them more where a task has few.
    hold_out: Literal["all", "scored"] = "all"
    partitioner: str | None = None  # for kind: flwr, a class of flwr_datasets.partitioner
    options: dict[str, Any] = Field(default_factory=dict)  # for kind: flwr, its arguments


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
    # Clients that are the source's own (natural, flwr) with fewer examples in all are set aside.
    min_examples: Count = 0
    # Rows that cannot be used (no target, no client, no text, ...): refuse all data, or skip and count them.
    bad_rows: Literal["refuse", "skip"] = "refuse"
    unseen_tasks: Count | tuple[str, ...] = 0  # held out from every client: how many, or which
