"""The section `data` of a configuration: source, template, partition, numbers of clients and examples."""

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
    """Number of the task's examples shown before the instance."""
    max_tokens: Positive = 1024
    """Maximum tokens of definition, input and target together; longer instances are trimmed."""


class DataConfig(ClientSettings):
    """The federated data set: source, template, partition, numbers of clients and examples."""

    source: SourceSettings
    template: TemplateConfig = TemplateConfig()
    partition: PartitionSettings = Auto()
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Handling of unusable rows (no target, no client, no text): refuse the data, or skip the rows."""
    unseen_tasks: Count | tuple[str, ...] = 0
    """Tasks held out from all clients: their number or names."""
