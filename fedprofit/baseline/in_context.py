"""The base model with some of the client's own train examples before each input."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedprofit.baseline.base import BaselineContext, BaselineSettings
from fedprofit.config.base import Positive
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientId, Example, Tokens
from fedprofit.data.template import BETWEEN
from fedprofit.predict.base import Predictor, Prompted

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.forward import Row
    from fedprofit.predict.base import Answers


class InContext(BaselineSettings, kind="in_context", paper="Brown et al. 2020, arXiv 2005.14165"):
    """The base model, without a prompt, with the client's own train examples in context."""

    examples: Positive = 4
    """Own train examples before each input, drawn by seed; fewer if the client has fewer or the model's
    context is exceeded."""

    def predictor(self, context: BaselineContext, clients: Sequence[ClientId]) -> Predictor:
        """Draw each client's examples and put them before the rows."""
        empty = context.tuner.apply_one(context.tuner.empty(context.engine.backbone))
        inner = Prompted(context.engine, empty.expand(len(clients), *empty.shape))
        tokenizer = context.engine.backbone.tokenizer
        between = np.array(tokenizer(BETWEEN, add_special_tokens=False)["input_ids"], np.int32)
        return _WithExamples(inner, [self._drawn(context, client, between) for client in clients])

    def _drawn(self, context: BaselineContext, client: ClientId, between: Tokens) -> Tokens:
        own = context.examples(client)
        order = numpy_generator(context.seed, "in context", client).permutation(len(own))
        found = between[:0]
        for number in order[: self.examples]:
            longer = np.concatenate([found, _text(own[int(number)], between)])
            if context.room is not None and len(longer) > context.room:
                break
            found = longer
        return found

    def extra_tokens(self, longest: int) -> int:
        """Return the tokens of that many longest examples, separators included."""
        return self.examples * (longest + 4)


def _text(example: Example, between: Tokens) -> Tokens:
    """Return an example's input and target without end of sequence, and the blank line after them."""
    return np.concatenate([example.source, example.target[:-1], between])


@dataclass(frozen=True)
class _WithExamples:
    """A predictor that inserts tokens between an example's prefix and its source."""

    inner: Predictor
    before: Sequence[Tokens]  # of each client

    def __len__(self) -> int:
        return len(self.inner)

    def score(self, rows: "Sequence[Row]") -> "Tensor":
        return self.inner.score(self._extended(rows))

    def answer(self, rows: "Sequence[Row]", max_new_tokens: int) -> "Answers":
        return self.inner.answer(self._extended(rows), max_new_tokens)

    def _extended(self, rows: "Sequence[Row]") -> "list[Row]":
        return [
            replace(row, example=replace(row.example, prefix=self._prefix(row.owner, row.example)))
            for row in rows
        ]

    def _prefix(self, owner: int, example: Example) -> Tokens:
        return np.concatenate([example.prefix, self.before[owner]])
