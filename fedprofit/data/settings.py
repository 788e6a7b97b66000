"""The configuration's part on data: source, template, partition, and how many clients and examples."""

from typing import Literal

from fedprofit.config.base import Count, Positive, Section
from fedprofit.data.clients import ClientSettings
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


class DataConfig(ClientSettings):
    """The federated data set: source, template, partition, and how many clients and examples."""

    source: SourceSettings
    template: TemplateConfig = TemplateConfig()
    partition: PartitionSettings = Auto()
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What to do where rows cannot be used (no target, no client, no text): refuse all data, or skip them."""
    unseen_tasks: Count | tuple[str, ...] = 0
    """Tasks held out from every client: how many, or which."""
