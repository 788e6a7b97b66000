"""The configuration's part on data: source, template, partition, and how many clients and examples."""

from typing import Literal

from fedprofit.config.base import Count, Positive, Section
from fedprofit.data.partitions.base import PartitionSettings
from fedprofit.data.partitions.natural import Auto
from fedprofit.data.sources.base import SourceSettings


class TemplateConfig(Section):
    """How an instance becomes text, after Super-NaturalInstructions' own evaluation."""

    definition: bool = True
    """Whether the definition is shown. Without it, only the tuner's parameters describe the task."""
    positive_examples: Count = 0
    """How many of the task's examples are shown before the instance."""
    max_tokens: Positive = 1024
    """Tokens of definition, input and target together; longer ones are trimmed."""


class Groups(Section):
    """How many clients, or how many examples a client, for each of three purposes."""

    train: Count
    validation: Count
    test: Count


class DataConfig(Section):
    """The federated data set: source, template, partition."""

    source: SourceSettings
    template: TemplateConfig = TemplateConfig()
    partition: PartitionSettings = Auto()
    clients: Groups = Groups(train=8, validation=2, test=4)
    """How many clients of each group."""
    examples: Groups | None = Groups(train=48, validation=16, test=16)
    """The largest number of examples of each split that a client gets; null: all it has."""
    min_examples: Count = 0
    """Given clients (natural, flwr) with fewer examples in all are set aside."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What to do where rows cannot be used (no target, no client, no text): refuse all data, or skip them."""
    unseen_tasks: Count | tuple[str, ...] = 0
    """Tasks held out from every client: how many, or which."""
