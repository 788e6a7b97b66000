"""The tuner protocol: the parameters that a client trains in addition to the frozen backbone.

A new tuner is one file: a settings class with a `kind`, and a `build` that returns a `Tuner`. All other code
passes the tensors of `Params` on without knowing their names. `prompt.py` is the shortest to read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fedprofit.config.component import Component
from fedprofit.core.errors import UserError
from fedprofit.core.types import Params

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.load import Backbone

AGAIN = "Delete the file and resume the run."


class TunerSettings(Component, family="tuner", package="fedprofit.tuner", default="prompt"):
    """Settings of a tuner: the parameters that clients train."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("expected_numbers",), ("build",))

    tokens_field: ClassVar[str] = ""  # the field that lowers `tokens`, for error messages

    @property
    def tokens(self) -> int:
        """Tokens that the tuner adds to each input."""
        return 0

    def expected_numbers(self, width: int) -> int:
        """Return how many numbers one client's parameters have.

        Args:
            width: of the backbone's input embeddings.
        """
        raise NotImplementedError

    def build(self) -> "Tuner":
        """Make the tuner."""
        raise NotImplementedError


@dataclass(frozen=True)
class Tuner:
    """A tuner: pure functions over the parameters that clients train.

    Attributes:
        kind: the component's kind, for error messages.
        dimensions: the names of its tensors, and how many dimensions each has, unstacked.
        init: the initialization that all clients share, from a backbone and a seed.
        empty: parameters that leave the base model unchanged, unstacked.
        apply: differentiable function from stacked parameters to the input embeddings of the engine,
            `[clients, length, width]`.
        write: write one client's parameters to a folder for another library; None if none reads them.
    """

    kind: str
    dimensions: Mapping[str, int]
    init: "Callable[[Backbone, int], Params]"
    empty: "Callable[[Backbone], Params]"
    apply: "Callable[[Params], Tensor]"
    write: "Callable[[Params, Backbone, Path], None] | None" = None

    def apply_one(self, params: Params) -> "Tensor":
        """Apply to unstacked parameters: `[length, width]`."""
        return self.apply({key: tensor.unsqueeze(0) for key, tensor in params.items()})[0]

    def mix(self, a: Params, b: Params, alpha: float) -> Params:
        """Return alpha x a + (1 - alpha) x b.

        Args:
            a: stacked parameters, `[clients, ...]`.
            b: unstacked parameters, or stacked ones.
            alpha: 1 gives `a`, 0 gives `b`.
        """
        return {key: alpha * tensor + (1 - alpha) * b[key] for key, tensor in a.items()}

    def save(self, points: Mapping[str, Params]) -> "dict[str, Tensor]":
        """Return the named tensors of one file that holds several parameters.

        Args:
            points: parameters by label, such as `step-8`.

        Returns:
            Tensors by `label.name`, such as `step-8.prompt`.
        """
        return {f"{label}.{key}": params[key] for label, params in points.items() for key in self.dimensions}

    def load(self, tensors: "Mapping[str, Tensor]", path: Path) -> dict[str, Params]:
        """Return the parameters by label; the inverse of `save`.

        Args:
            tensors: what the file holds.
            path: the file, for error messages.

        Raises:
            UserError: the file lacks a tensor, or it is of another tuner.
        """
        points: dict[str, Params] = {}
        for name, tensor in tensors.items():
            label, _, key = name.rpartition(".")
            if key not in self.dimensions:
                raise UserError(
                    f"{path}: holds the tensor {name!r}, which the tuner {self.kind!r} lacks. Give a file "
                    "of this tuner."
                )
            points.setdefault(label, {})[key] = tensor
        for label, params in points.items():
            for key in self.dimensions:
                if key not in params:
                    name = f"{label}.{key}"
                    raise UserError(f"{path}: lacks the tensor {name!r} of the tuner {self.kind!r}. {AGAIN}")
        return points

    def check(self, params: Params, what: str, like: Params | None = None, finite: bool = True) -> None:
        """Check parameters that come from outside of a run.

        Args:
            params: stacked or unstacked parameters.
            what: the component, argument or file that they come from.
            like: parameters whose tensors have the required shape after the clients' dimension.
            finite: refuse NaN and infinity.

        Raises:
            UserError: they are of another tuner, of another shape, or hold NaN or infinity.
        """
        import torch

        if set(params) != set(self.dimensions):
            raise UserError(
                f"{what}: the tuner {self.kind!r} has the tensors {', '.join(sorted(self.dimensions))}, and "
                f"these parameters have {', '.join(sorted(params)) or 'none'}. Give parameters of this tuner."
            )
        for key, count in self.dimensions.items():
            shape = tuple(params[key].shape)
            wanted = tuple(like[key].shape)[-count:] if like else shape[-count:]
            if len(shape) not in (count, count + 1) or shape[-count:] != wanted:
                raise UserError(
                    f"{what}: the tensor {key!r} of the tuner {self.kind!r} has the shape {list(shape)}; "
                    f"give {[*wanted] if like else f'{count} dimensions'}, or one more for the clients."
                )
            if finite and not bool(torch.isfinite(params[key]).all()):
                raise UserError(
                    f"{what}: the tensor {key!r} of the tuner {self.kind!r} holds NaN or infinity. Give "
                    "parameters of a run that did not diverge."
                )

    def export(self, params: Params, backbone: "Backbone", folder: Path) -> None:
        """Write one client's parameters (unstacked) into a folder that `peft` loads.

        Raises:
            UserError: `peft` has no such tuner, the parameters cannot be used, or the folder exists.
        """
        from fedprofit.core.files import atomic

        if self.write is None:
            raise UserError(
                f"tuner {self.kind!r}: peft has no such adapter, so it cannot be exported. Use "
                "the safetensors files in the run's folder prompts/."
            )
        self.check(params, f"tuner {self.kind!r}")
        if folder.exists():
            raise UserError(f"{folder}: exists. Choose a folder that does not.")
        with atomic(folder) as temporary:
            temporary.mkdir(parents=True)
            self.write(params, backbone, temporary)
