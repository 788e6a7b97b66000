"""Gate rules: which inputs a gate answers with the personal parameters.

A rule of your own is a settings class with a `kind` and a `build`; `examples/plugins/gate.py` is one. The
engine computes what rules compare: `mean_embeddings`, `hidden_states` and `input_likelihood`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fedprofit.config.component import Component
from fedprofit.predict.base import PredictorContext

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.forward import Row

# From rows to booleans `[rows]`: True for the personal parameters, False for the federated ones.
Choose = Callable[["Sequence[Row]"], "Tensor"]


class GateRule(Component, family="gate rule", package="fedprofit.predict.rule", default="likelihood"):
    """How a gate chooses between personal and federated parameters."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("build",),)

    @property
    def passes(self) -> float:
        """How often the rule makes the backbone read an input."""
        return 0

    def features(self, width: int, examples: int) -> int:
        """Return how many numbers a client stores for the rule; see `PredictorSettings.features`."""
        return 0

    def build(self, context: PredictorContext) -> Choose:
        """Make the function that chooses, from the clients' own train examples and parameters.

        It must not look at targets: at inference there are none.
        """
        raise NotImplementedError


class Likelihood(GateRule, kind="likelihood"):
    """Personal where the input is likelier under the personal parameters than under the federated ones."""

    margin: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """By how many nats per token it must be likelier."""

    @property
    def passes(self) -> float:
        """Twice: under either set of parameters."""
        return 2

    def build(self, context: PredictorContext) -> Choose:
        """Make the function that chooses."""
        personal = context.personal_prompts
        federated = context.federated_prompt.expand_as(personal)

        def choose(rows: "Sequence[Row]") -> "Tensor":
            gain = context.engine.input_likelihood(personal, rows)
            return gain - context.engine.input_likelihood(federated, rows) >= self.margin

        return choose
