"""A gate: each input is answered with the personal or with the federated parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedprofit.config.component import where_of
from fedprofit.core.errors import UserError
from fedprofit.predict.base import Predictor, PredictorContext, PredictorSettings, Prompted
from fedprofit.predict.rule import Choose, GateRule, Likelihood

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.forward import Row
    from fedprofit.predict.base import Answers


class Gate(PredictorSettings, kind="gate"):
    """Personal or federated parameters, chosen for each input by a rule."""

    rule: GateRule = Likelihood()
    """The rule."""

    @property
    def passes(self) -> float:
        """Once for the answer, plus the reads of the rule."""
        return 1 + self.rule.passes

    @property
    def stored(self) -> int:
        """Both sets."""
        return 2

    def features(self, width: int, examples: int) -> int:
        """Return the count of numbers that the rule stores."""
        return self.rule.features(width, examples)

    def build(self, context: PredictorContext) -> Predictor:
        """Make the predictor of all clients."""
        import torch

        both = torch.cat([context.personal_prompts, context.federated_prompt.unsqueeze(0)])
        return Gated(Prompted(context.engine, both), self.rule.build(context), self.rule)


@dataclass(frozen=True)
class Gated:
    """The clients' parameters and, at the end of the stack, those for inputs that the rule rejects."""

    both: Prompted
    choose: Choose
    rule: GateRule

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.both) - 1

    def score(self, rows: "Sequence[Row]") -> "Tensor":
        """Return each row's loss."""
        return self.both.score(self._routed(rows))

    def answer(self, rows: "Sequence[Row]", max_new_tokens: int) -> "Answers":
        """Return each row's loss and greedy answer."""
        return self.both.answer(self._routed(rows), max_new_tokens)

    def _routed(self, rows: "Sequence[Row]") -> "list[Row]":
        """Give each rejected row to the federated parameters."""
        import torch

        chosen = self.choose(rows)
        if not isinstance(chosen, torch.Tensor) or chosen.dtype != torch.bool or chosen.shape != (len(rows),):
            found = (
                f"{chosen.dtype} {list(chosen.shape)}" if isinstance(chosen, torch.Tensor) else type(chosen)
            )
            raise UserError(
                f"{where_of(type(self.rule))}: gate rule {self.rule.kind!r}: returned {found} for {len(rows)}"
                " rows. Return one boolean per row, in a tensor."
            )
        return [
            row if personal else replace(row, owner=len(self))
            for row, personal in zip(rows, chosen.tolist(), strict=True)
        ]
