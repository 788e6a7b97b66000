"""The contract of local solvers: K clients' parameters in, K clients' parameters out.

Two solvers implement it: `solver.py` trains all clients at once, `reference.py` one after the other. Tests
compare them for every client optimizer, objective term and personalization.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedprofit.core.types import Batch, ClientBatches, LocalResult, Params
from fedprofit.local.optimizer import ClientOptimizerSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gradients:
    """Losses (or divergences) of K clients on one batch each, and their gradients."""

    gradients: Params  # stacked
    losses: "Tensor"  # [clients], mean per target token, in nats; 0 for a client without a batch
    tokens: list[int]  # by client, counted as if each client were computed separately


@dataclass(frozen=True)
class Step:
    """One local step of all clients, as the vectorized solver gives it to a term.

    Attributes:
        params: the clients' current parameters, stacked `[clients, ...]`.
        batches: one per client; empty for a client that does not step.
        loss: the losses and gradients of the batches at `params`.
        solver: computes more gradients and divergences, for all clients at once.
    """

    params: Params
    batches: Sequence[Batch]
    loss: Gradients
    solver: "LocalSolver"


class Differentiable(Protocol):
    """Losses and divergences of one client, as scalars that autograd can differentiate."""

    def loss(self, params: Params, batch: Batch) -> "Tensor":
        """Return the mean loss per target token of a batch, in nats, at unstacked parameters."""
        ...

    def divergence(self, params: Params, reference: Params, batch: Batch) -> "Tensor":
        """Return the mean KL(reference || current) per target token; `reference` is held constant."""
        ...


@dataclass(frozen=True)
class ClientStep:
    """One local step of one client, as the sequential reference gives it to a term.

    Attributes:
        params: the client's current parameters, unstacked, with autograd.
        batch: the batch of this step.
        client: its position among the stacked clients.
        model: computes losses and divergences.
    """

    params: Params
    batch: Batch
    client: int
    model: Differentiable


class Term(Protocol):
    """A term of the local objective."""

    def gradient(self, step: Step) -> Params:
        """Return each client's gradient of the term, stacked like the parameters, `[clients, ...]`.

        A client without a batch does not step; only the shape of its slice matters.
        """
        ...

    def value(self, step: ClientStep) -> "Tensor":
        """Return the term for one client, as a scalar that autograd can differentiate."""
        ...


class LocalSolver(Protocol):
    """Computes the clients' local training."""

    def gradients(self, params: Params, batches: Sequence[Batch]) -> Gradients:
        """Compute each client's mean loss per target token on its batch, and its gradient.

        Args:
            params: stacked parameters, `[clients, ...]`.
            batches: one a client; an empty one gives loss 0 and gradient 0.
        """
        ...

    def divergences(self, params: Params, reference: Params, batches: Sequence[Batch]) -> Gradients:
        """Compute each client's mean KL(reference || current) per target token, and its gradient.

        The distributions are those of the frozen model over the vocabulary at the target positions, under
        the reference and the current parameters.

        Args:
            params: the current parameters, stacked `[clients, ...]`.
            reference: the reference parameters, stacked; soft prompts may have another length.
            batches: one a client; an empty one gives divergence 0 and gradient 0.
        """
        ...

    def solve(
        self,
        params: Params,
        cohort: Sequence[ClientBatches],
        optimizer: ClientOptimizerSettings,
        terms: Sequence[Term] = (),
        snapshots: Sequence[int] = (),
    ) -> tuple[LocalResult, dict[int, Params]]:
        """Train every client on its own batches from its own start.

        The objective of client k at step s is its mean loss per target token on batch s, plus the `terms`.
        Clients may have different numbers of batches, or none. A client whose loss, gradient or next
        parameters are not finite stops there, keeps its last finite parameters, and is named in the result;
        the others continue. `tokens` counts the tokens read for the loss, not those read for terms.

        Args:
            params: each client's start, stacked `[clients, ...]`.
            cohort: the clients, with one batch per step.
            optimizer: the client optimizer; its state starts fresh.
            terms: terms of the objective in addition to the loss.
            snapshots: steps after which all clients' parameters are kept; 0 keeps the start.

        Returns:
            The result, and the stacked parameters after each step of `snapshots`. Clients that finish early
            keep their final parameters in later snapshots.

        Raises:
            UserError: a term returned wrong names or shapes, or NaN where parameters and loss are finite.
        """
        ...
