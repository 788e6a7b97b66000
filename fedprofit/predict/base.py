"""The predictor contract: from clients' rows to losses and answers.

A new predictor is one file: a settings class with a `kind`, and a `build` that returns a `Predictor`. The
evaluator scores predictors only. `single.py` is the shortest to read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from fedprofit.config.component import Component, where_of
from fedprofit.config.trial import Named
from fedprofit.core.errors import UserError
from fedprofit.core.types import ClientId, Example, Params
from fedprofit.tuner.base import Tuner

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.engine import Engine
    from fedprofit.backbone.forward import Row

    Answers = tuple[Tensor, list[list[int]]]


class Predictor(Protocol):
    """Answers the rows of several clients; a row's `owner` is its client's position."""

    def __len__(self) -> int:
        """Return the number of clients; 1 for a predictor that all clients share."""
        ...

    def score(self, rows: "Sequence[Row]") -> "Tensor":
        """Return each row's negative log-likelihood, summed over its target tokens, in nats, `[rows]`."""
        ...

    def answer(self, rows: "Sequence[Row]", max_new_tokens: int) -> "Answers":
        """Return the losses as `score` does, and each row's greedy answer without end of sequence."""
        ...


@dataclass(frozen=True)
class PredictorContext:
    """Inputs from which a predictor is built.

    Attributes:
        engine: the frozen backbone.
        tuner: the tuner of the parameters.
        personal: the clients' personal parameters, stacked `[clients, ...]`.
        federated: the federated parameters that they started from, unstacked.
        clients: their names, in the order of `personal`.
        examples: function from a client to its own train examples.
    """

    engine: "Engine"
    tuner: Tuner
    personal: Params
    federated: Params
    clients: Sequence[ClientId]
    examples: Callable[[ClientId], Sequence[Example]]

    @property
    def personal_prompts(self) -> "Tensor":
        """The personal parameters as the engine takes them, `[clients, length, width]`."""
        return self.tuner.apply(self.personal)

    @property
    def federated_prompt(self) -> "Tensor":
        """The federated parameters as the engine takes them, `[length, width]`."""
        return self.tuner.apply_one(self.federated)


@dataclass(frozen=True)
class Cost:
    """Cost of a client's predictor.

    Attributes:
        passes: number of times that the input is read for one answer.
        tokens: tuner tokens that are read for one answer, over all passes.
        numbers: numbers that a client stores.
    """

    passes: float
    tokens: float
    numbers: int


class PredictorSettings(Named, Component, family="predictor", package="fedprofit.predict", default="single"):
    """Settings of a predictor."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("build",),)

    @property
    def passes(self) -> float:
        """Number of times that an input is read for one answer."""
        return 1

    @property
    def stored(self) -> int:
        """Number of sets of tuner parameters that a client stores."""
        return 1

    def features(self, width: int, examples: int) -> int:
        """Return the count of numbers that a client stores in addition to parameters.

        Args:
            width: of the backbone's input embeddings.
            examples: the client's train examples.
        """
        return 0

    def cost(self, tokens: int, parameters: int, width: int, examples: int) -> Cost:
        """Return the predictor's cost for a client.

        Args:
            tokens: tokens that the tuner adds to an input.
            parameters: numbers in one set of the tuner's parameters.
            width: of the backbone's input embeddings.
            examples: the client's train examples.
        """
        numbers = self.stored * parameters + self.features(width, examples)
        return Cost(self.passes, self.passes * tokens, numbers)

    def build(self, context: PredictorContext) -> Predictor:
        """Make the predictor of all clients."""
        raise NotImplementedError


@dataclass(frozen=True)
class Prompted:
    """One set of parameters per client, or one for all: `prompts` as the engine takes them."""

    engine: "Engine"
    prompts: "Tensor"  # [clients, length, width]

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.prompts)

    def score(self, rows: "Sequence[Row]") -> "Tensor":
        """Return each row's loss."""
        return self.engine.score(self.prompts, rows)

    def answer(self, rows: "Sequence[Row]", max_new_tokens: int) -> "Answers":
        """Return each row's loss and greedy answer."""
        return self.engine.answer(self.prompts, rows, max_new_tokens)


def predictor_of(engine: "Engine", prompts: "Tensor | Predictor") -> Predictor:
    """Return a predictor unchanged; convert prompts `[clients, length, width]` to one."""
    import torch

    return Prompted(engine, prompts) if isinstance(prompts, torch.Tensor) else prompts


def build_predictor(settings: PredictorSettings, context: PredictorContext, finite: bool = True) -> Predictor:
    """Check the parameters, and build a predictor whose results are checked.

    Args:
        settings: the predictor.
        context: the inputs.
        finite: reject NaN and infinity among the parameters. A run does not: it also scores clients that
            diverged.

    Raises:
        UserError: the parameters are of another tuner or of wrong shape, or hold NaN; or the predictor is
            for another number of clients.
    """
    what, tuner = f"predictor {settings.name!r}", context.tuner
    tuner.check(context.federated, f"{what}, federated parameters", finite=finite)
    tuner.check(context.personal, f"{what}, personal parameters", context.federated, finite)
    counts = {len(tensor) for tensor in context.personal.values()}
    if counts != {len(context.clients)}:
        raise UserError(
            f"{what}, personal parameters: stack one set for each of {len(context.clients)} clients "
            f"(found {', '.join(map(str, sorted(counts)))})."
        )
    built = settings.build(context)
    if len(built) not in (1, len(context.clients)):
        raise UserError(
            f"{where_of(type(settings))}: {what} answers for {len(built)} clients; there are "
            f"{len(context.clients)}. Let `build` make a predictor of all clients, or of one for all."
        )
    return built if settings.is_built_in() else Checked(built, settings)


@dataclass(frozen=True)
class Checked:
    """A predictor from outside the package, whose results are checked."""

    inner: Predictor
    settings: PredictorSettings

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.inner)

    def score(self, rows: "Sequence[Row]") -> "Tensor":
        """Return each row's loss. Raise UserError unless there is a number for each."""
        return self._losses(self.inner.score(rows), len(rows), "score")

    def answer(self, rows: "Sequence[Row]", max_new_tokens: int) -> "Answers":
        """Return each row's loss and answer. Raise UserError unless there is one of each for every row."""
        losses, answers = self.inner.answer(rows, max_new_tokens)
        if len(answers) != len(rows):
            raise self._error(f"`answer` returned {len(answers)} answers for {len(rows)} rows")
        return self._losses(losses, len(rows), "answer"), answers

    def _losses(self, losses: "Tensor", rows: int, function: str) -> "Tensor":
        if tuple(losses.shape) != (rows,):
            raise self._error(f"`{function}` returned losses of shape {list(losses.shape)} for {rows} rows")
        if bool(losses.isnan().any()):
            raise self._error(f"`{function}` returned NaN as a loss")
        return losses

    def _error(self, found: str) -> UserError:
        place = where_of(type(self.settings))
        return UserError(
            f"{place}: predictor {self.settings.name!r}: {found}. Return one finite loss per row, in order."
        )
