"""Gate rules, which select the inputs that a gate answers with the personal parameters.

A custom rule is a settings class with a `kind` and a `build`, as in `examples/plugins/gate.py`. The engine
computes features for rules: `mean_embeddings`, `hidden_states` and `input_likelihood`.
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
    """The choice of a gate between personal and federated parameters."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("build",),)

    @property
    def passes(self) -> float:
        """Number of times that the backbone reads an input for the rule."""
        return 0

    def features(self, width: int, examples: int) -> int:
        """Return the count of numbers that a client stores for the rule; see `PredictorSettings.features`."""
        return 0

    def build(self, context: PredictorContext) -> Choose:
        """Make the function that chooses, from the clients' own train examples and parameters.

        It must not look at targets: at inference there are none.
        """
        raise NotImplementedError


class Likelihood(GateRule, kind="likelihood"):
    """Personal if the input is likelier under the personal parameters than under the federated ones."""

    margin: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Minimum difference in log-likelihood, in nats per token."""

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
