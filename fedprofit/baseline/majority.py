"""The majority label: the most frequent train target. A method below it has learned nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fedprofit.baseline.base import AnswerOf, BaselineContext, BaselineSettings
from fedprofit.core.types import ClientId, Example


class Majority(BaselineSettings, kind="majority"):
    """The most frequent train target: of the client for its own examples, of the task for all others."""

    def answer(self, context: BaselineContext, clients: Sequence[ClientId]) -> AnswerOf:
        """Count targets by client, and by task among all train clients; unknown tasks have no answer."""
        own = {client: most_frequent(context.examples(client)) for client in clients}
        by_task: dict[str, list[Example]] = defaultdict(list)
        for example in context.pool:
            by_task[example.task].append(example)
        of_task = {task: most_frequent(examples) for task, examples in by_task.items()}

        def answer(client: ClientId, is_own: bool, example: Example) -> str | None:
            return own[client] if is_own else of_task.get(example.task)

        return answer


def most_frequent(examples: Iterable[Example]) -> str | None:
    """Return the most frequent first reference; ties are broken alphabetically.

    >>> most_frequent([])
    """
    counts = Counter(example.references[0] for example in examples)
    return min(counts, key=lambda text: (-counts[text], text), default=None)
