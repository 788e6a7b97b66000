"""The sequential reference: a plain loop over clients. Tests compare `solver.py` with it.

No stacking, no packing, no shared prefix, no micro-batches: plain concatenation, the model's own
attention, autograd, torch.optim. Read this to know what the solver computes. `backbone.engine: reference`
computes a complete run with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedprofit.backbone import paths
from fedprofit.backbone.forward import Row, count_tokens
from fedprofit.backbone.load import Backbone
from fedprofit.core.types import Batch, ClientBatches, LocalResult, Params
from fedprofit.local.base import ClientStep, Gradients, Step, Term
from fedprofit.local.objective import check_gradient, term_error
from fedprofit.local.optimizer import ClientOptimizerSettings
from fedprofit.local.stacked import finite_clients, finite_slices
from fedprofit.tuner.base import Tuner
from fedprofit.tuner.prompt import SOFT_PROMPT


@dataclass
class _Trained:
    """Result of one client's training."""

    params: Params  # unstacked
    kept: dict[int, Params]
    losses: list[float] = field(default_factory=list)
    steps: int = 0
    tokens: int = 0
    stopped: str = ""


@dataclass(frozen=True)
class Sequential:
    """The local solver that trains one client after the other; `LocalSolver` documents its methods.

    Attributes:
        backbone: the frozen model.
        path: how losses are computed (see `backbone/paths.py`); by default one row at a time.
    """

    backbone: Backbone
    path: str = paths.SINGLE
    tuner: Tuner = SOFT_PROMPT

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss per target token of a batch, in nats, at unstacked parameters."""
        rows = [Row(0, example) for example in batch]
        losses = paths.losses(self.backbone, self.path, self.tuner.apply(_stacked([params])), rows)
        return losses.sum() / _targets(batch)

    def divergence(self, params: Params, reference: Params, batch: Batch) -> Tensor:
        """Return the mean KL(reference || current) per target token; `reference` is held constant."""
        rows = [Row(0, example) for example in batch]
        now, before = (self.tuner.apply(_stacked([one])) for one in (params, reference))
        found = paths.divergences(self.backbone, self.path, now, before, rows)
        return found.sum() / _targets(batch)

    def gradients(self, params: Params, batches: Sequence[Batch]) -> Gradients:
        """Compute each client's mean loss per target token on its batch, and its gradient."""
        return self._each(params, batches, lambda client, own, batch: self.loss(own, batch))

    def divergences(self, params: Params, reference: Params, batches: Sequence[Batch]) -> Gradients:
        """Compute each client's mean KL divergence per target token from a reference, and its gradient."""
        return self._each(
            params,
            batches,
            lambda client, own, batch: self.divergence(own, _of_client(reference, client), batch),
        )

    def solve(
        self,
        params: Params,
        cohort: Sequence[ClientBatches],
        optimizer: ClientOptimizerSettings,
        terms: Sequence[Term] = (),
        snapshots: Sequence[int] = (),
    ) -> tuple[LocalResult, dict[int, Params]]:
        """Train every client on its own batches from its own start."""
        done = [
            self._train(_of_client(params, place), client, place, optimizer, terms, snapshots)
            for place, client in enumerate(cohort)
        ]
        result = LocalResult(
            params=_stacked([one.params for one in done]) if done else params,
            losses=[one.losses for one in done],
            steps=[one.steps for one in done],
            tokens=[one.tokens for one in done],
            stopped={
                client.client: one.stopped for client, one in zip(cohort, done, strict=True) if one.stopped
            },
        )
        return result, {
            step: _stacked([one.kept[step] for one in done]) if done else params for step in snapshots
        }

    def _train(
        self,
        params: Params,
        client: ClientBatches,
        place: int,
        optimizer: ClientOptimizerSettings,
        terms: Sequence[Term],
        snapshots: Sequence[int],
    ) -> _Trained:
        """Train one client; `place` is its position among the stacked parameters of the terms."""
        done = _Trained(params, dict.fromkeys(snapshots, params))
        move = _mover(optimizer, params)
        for number, batch in enumerate(client.batches, 1):
            if batch and not done.stopped:
                loss = self._each(_stacked([done.params]), [batch], lambda _, own, rows: self.loss(own, rows))
                slopes = self._with_terms(done.params, batch, loss, terms, client, place, number)
                finite = bool(finite_clients(loss.losses, _stacked([slopes])))
                moved = move(slopes) if finite else None
                done.losses.append(float(loss.losses))
                done.tokens += loss.tokens[0]
                if moved is None:
                    what = "parameters" if finite else "loss or gradient"
                    done.stopped = f"{what} not finite at local step {number}"
                else:
                    done.params, done.steps = moved, done.steps + 1
            done.kept |= {step: done.params for step in snapshots if step >= number}
        return done

    def _with_terms(
        self,
        params: Params,
        batch: Batch,
        loss: Gradients,
        terms: Sequence[Term],
        client: ClientBatches,
        place: int,
        number: int,
    ) -> Params:
        """Add the gradients of the terms' values to that of the loss, unstacked."""
        slopes = _of_client(loss.gradients, 0)
        for term in terms:
            leaves = {key: tensor.detach().requires_grad_() for key, tensor in params.items()}
            value = term.value(ClientStep(leaves, batch, place, self))
            if not isinstance(value, Tensor) or value.dim():
                what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise term_error(term, number, f"has a value of {what}, not a scalar tensor", client.client)
            if value.requires_grad:
                torch.autograd.backward(value)
            more = {key: torch.zeros_like(k) if k.grad is None else k.grad for key, k in leaves.items()}
            step = Step(_stacked([params]), [batch], loss, self)
            check_gradient(term, _stacked([more]), step, [client.client], number)
            slopes = {key: slope + more[key] for key, slope in slopes.items()}
        return slopes

    def _each(
        self, params: Params, batches: Sequence[Batch], value: Callable[[int, Params, Batch], Tensor]
    ) -> Gradients:
        """Differentiate a scalar of each client that has a batch; gradients of the others are 0."""
        losses, slopes, tokens = [], [], []
        length = self.tuner.apply(params).shape[1]
        for place, batch in enumerate(batches):
            leaves = {
                key: tensor.detach().requires_grad_() for key, tensor in _of_client(params, place).items()
            }
            if batch:
                found = value(place, leaves, batch)
                torch.autograd.backward(found)
                losses.append(found.detach())
            else:
                losses.append(torch.zeros((), device=self.backbone.device))
            slopes.append(
                {key: torch.zeros_like(k) if k.grad is None else k.grad for key, k in leaves.items()}
            )
            tokens.append(count_tokens([Row(0, example) for example in batch], length))
        return Gradients(_stacked(slopes) if slopes else params, torch.stack(losses), tokens)


def _mover(optimizer: ClientOptimizerSettings, params: Params) -> Callable[[Params], Params | None]:
    """Return a function from a gradient to the next parameters, or to None if they are not finite.

    It uses the equivalent optimizer of `torch.optim` if there is one, else the optimizer on one client.
    """
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in params.items()}
    twin = optimizer.in_torch(list(leaves.values()))
    if twin is not None:

        def by_twin(gradient: Params) -> Params | None:
            for key, leaf in leaves.items():
                leaf.grad = gradient[key]
            twin.step()
            moved = {key: leaf.detach().clone() for key, leaf in leaves.items()}
            return moved if finite_slices(_stacked([moved])) else None

        return by_twin
    rule, here = optimizer.build(), _stacked([params])
    state = rule.init(here)

    def by_rule(gradient: Params) -> Params | None:
        nonlocal here, state
        before, active = state.steps, torch.ones(1, dtype=torch.bool, device=state.steps.device)
        here, state = rule.update(here, _stacked([gradient]), state, active)
        return None if torch.equal(state.steps, before) else _of_client(here, 0)

    return by_rule


def _targets(batch: Batch) -> int:
    return sum(len(example.target) for example in batch)


def _stacked(params: Sequence[Params]) -> Params:
    return {key: torch.stack([one[key] for one in params]) for key in params[0]}


def _of_client(params: Params, place: int) -> Params:
    return {key: tensor[place] for key, tensor in params.items()}
