"""Terms of the local objective beside the loss.

The solver adds their gradients to that of the loss, for all clients at once. The sequential reference lets
autograd differentiate their values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedprofit.core.types import Params

if TYPE_CHECKING:
    from torch import Tensor


class Term(Protocol):
    """A term of the local objective."""

    def gradient(self, params: Params) -> Params:
        """Return each client's gradient of the term, stacked like the parameters, `[clients, ...]`."""
        ...

    def value(self, params: Params, client: int) -> "Tensor":
        """Return the term at one client's parameters (unstacked), as a scalar that autograd can follow.

        Args:
            params: the parameters of one client.
            client: its position among the stacked clients.
        """
        ...


@dataclass(frozen=True)
class Proximal:
    """The proximal term: weight / 2 x |params - anchor|^2 (Li et al. 2020, arXiv 1812.06127, equation 2)."""

    weight: float
    anchor: Params  # stacked, `[clients, ...]`

    def gradient(self, params: Params) -> Params:
        """Return weight x (params - anchor)."""
        return {key: self.weight * (tensor - self.anchor[key]) for key, tensor in params.items()}

    def value(self, params: Params, client: int) -> "Tensor":
        """Return the term for one client."""
        squares = [(tensor - self.anchor[key][client]).square().sum() for key, tensor in params.items()]
        return self.weight / 2 * sum(squares[1:], squares[0])


@dataclass(frozen=True)
class Correction:
    """A given gradient, added at every step: <correction, params>.

    SCAFFOLD adds the difference of its control variates (Karimireddy et al. 2020, arXiv 1910.06378).
    """

    correction: Params  # stacked, `[clients, ...]`

    def gradient(self, params: Params) -> Params:
        """Return the correction."""
        return {key: self.correction[key] for key in params}

    def value(self, params: Params, client: int) -> "Tensor":
        """Return the term for one client."""
        products = [(self.correction[key][client] * tensor).sum() for key, tensor in params.items()]
        return sum(products[1:], products[0])


def with_terms(gradients: Params, params: Params, terms: Sequence[Term]) -> Params:
    """Add the gradients of all terms to those of the loss, stacked each."""
    for term in terms:
        more = term.gradient(params)
        gradients = {key: gradient + more[key] for key, gradient in gradients.items()}
    return gradients
