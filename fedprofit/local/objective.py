"""Terms of the local objective in addition to the loss.

The solver adds their gradients to that of the loss, for all clients at once. The sequential reference
differentiates their values with autograd, one client at a time. A term of your own is a class with these two
methods; a test compares them (tests/local/test_objective.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedprofit.config.component import where_of
from fedprofit.core.errors import UserError, cut
from fedprofit.core.types import ClientId, Params
from fedprofit.local.base import ClientStep, Step, Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Proximal:
    """The proximal term: weight / 2 x |params - anchor|^2 (Li et al. 2020, arXiv 1812.06127, equation 2)."""

    weight: float
    anchor: Params  # stacked, `[clients, ...]`

    def gradient(self, step: Step) -> Params:
        """Return weight x (params - anchor)."""
        return {key: self.weight * (tensor - self.anchor[key]) for key, tensor in step.params.items()}

    def value(self, step: ClientStep) -> "Tensor":
        """Return the term for one client."""
        anchor = _of_client(self.anchor, step.client)
        squares = [(tensor - anchor[key]).square().sum() for key, tensor in step.params.items()]
        return self.weight / 2 * sum(squares[1:], squares[0])


@dataclass(frozen=True)
class Correction:
    """A given gradient, added at every step: <correction, params>.

    SCAFFOLD adds the difference of its control variates (Karimireddy et al. 2020, arXiv 1910.06378).
    """

    correction: Params  # stacked, `[clients, ...]`

    def gradient(self, step: Step) -> Params:
        """Return the correction."""
        return {key: self.correction[key] for key in step.params}

    def value(self, step: ClientStep) -> "Tensor":
        """Return the term for one client."""
        given = _of_client(self.correction, step.client)
        products = [(given[key] * tensor).sum() for key, tensor in step.params.items()]
        return sum(products[1:], products[0])


@dataclass(frozen=True)
class Kl:
    """weight x mean over target tokens of KL(reference || current), in nats.

    The reference distribution is that of the frozen model under the reference parameters. A reference soft
    prompt of length 0 is the model without a prompt.
    """

    weight: float
    reference: Params  # stacked, `[clients, ...]`

    def gradient(self, step: Step) -> Params:
        """Return the gradient, from one pass for the reference and one for the current parameters."""
        found = step.solver.divergences(step.params, self.reference, step.batches)
        return {key: self.weight * slope for key, slope in found.gradients.items()}

    def value(self, step: ClientStep) -> "Tensor":
        """Return the term for one client."""
        reference = _of_client(self.reference, step.client)
        return self.weight * step.model.divergence(step.params, reference, step.batch)


@dataclass(frozen=True)
class Sharpness:
    """Sharpness of the loss: max over |e| <= radius of loss(params + e) - loss(params).

    Loss and sharpness together are the objective of sharpness-aware minimization (Foret et al. 2021, arXiv
    2010.01412). The maximum is taken to first order, e = radius x gradient / |gradient|, and e is held
    constant (equations 2 and 3 there).
    """

    radius: float

    def gradient(self, step: Step) -> Params:
        """Return the gradient at params + e minus the gradient at params."""
        here = step.loss.gradients
        there = step.solver.gradients(self._ascended(step.params, here), step.batches).gradients
        return {key: there[key] - slope for key, slope in here.items()}

    def value(self, step: ClientStep) -> "Tensor":
        """Return the term for one client."""
        import torch

        loss = step.model.loss(step.params, step.batch)
        found = torch.autograd.grad(loss, list(step.params.values()), retain_graph=True)
        slopes = {key: slope[None] for key, slope in zip(step.params, found, strict=True)}
        there = self._ascended({key: tensor[None] for key, tensor in step.params.items()}, slopes)
        return step.model.loss(_of_client(there, 0), step.batch) - loss

    def _ascended(self, params: Params, gradients: Params) -> Params:
        import torch

        flat = torch.cat([slope.flatten(1) for slope in gradients.values()], dim=1)
        scale = self.radius / flat.norm(dim=1).clamp(min=torch.finfo(flat.dtype).tiny)
        return {
            key: tensor + scale.reshape(-1, *[1] * (tensor.dim() - 1)) * gradients[key]
            for key, tensor in params.items()
        }


def with_terms(step: Step, terms: Sequence[Term], clients: Sequence[ClientId], number: int) -> Params:
    """Add the gradients of all terms to those of the loss; all are stacked.

    Args:
        step: the inputs of the terms.
        terms: the terms.
        clients: the clients' names, for messages.
        number: the local step, from 1, for messages.

    Raises:
        UserError: a term returned wrong names, shapes or NaN.
    """
    gradients = step.loss.gradients
    for term in terms:
        more = term.gradient(step)
        check_gradient(term, more, step, clients, number)
        gradients = {key: gradient + more[key] for key, gradient in gradients.items()}
    return gradients


def check_gradient(term: Term, found: object, step: Step, clients: Sequence[ClientId], number: int) -> None:
    """Raise UserError unless a term's gradient has the parameters' names and shapes, and no NaN of its own.

    NaN is the term's own if the client's parameters, loss and gradient are finite. Infinite values are
    allowed: that client diverges and stops.
    """
    import torch

    from fedprofit.local.stacked import finite_clients, finite_slices

    wanted = {key: list(tensor.shape) for key, tensor in step.params.items()}
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise term_error(term, number, f"returned {type(found).__name__}, not a dictionary of tensors")
    shapes = {key: list(tensor.shape) for key, tensor in found.items()}
    if shapes != wanted:
        text = f"returned a gradient of shapes {cut(str(shapes))} for parameters of {cut(str(wanted))}"
        raise term_error(term, number, text)
    sound = finite_clients(step.loss.losses, step.loss.gradients) & finite_slices(step.params)
    broken = torch.stack([torch.isnan(tensor.flatten(1)).any(1) for tensor in found.values()]).any(0)
    for client, batch, wrong in zip(clients, step.batches, (sound & broken).tolist(), strict=True):
        if wrong and batch:
            raise term_error(term, number, "returned NaN, though loss and parameters are finite", client)


def term_error(term: Term, number: int, what: str, client: ClientId | None = None) -> UserError:
    """Name a term, the client and the local step at which it failed."""
    of_client = f" of client {cut(client)!r}" if client is not None else ""
    return UserError(
        f"{where_of(type(term))}: the objective term {type(term).__name__} {what}, at local step {number}"
        f"{of_client}. Correct its gradient and value."
    )


def _of_client(stacked: Params, client: int) -> Params:
    return {key: tensor[client] for key, tensor in stacked.items()}
