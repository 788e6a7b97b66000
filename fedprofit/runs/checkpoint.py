"""Parameters on disk: one safetensors file each, with its facts and its checksum inside, written atomically.

Tensors and facts in one file cannot disagree after a crash.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fedprofit.core.files import atomic
from fedprofit.core.reading import read_tensors
from fedprofit.core.sealed import facts_text, seal_file
from fedprofit.core.types import Params, ServerState

ORDER = "tensors"  # fact of a checkpoint: its tensors' names, in order


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-like facts to one safetensors file."""
    # Cloned: safetensors rejects tensors that share memory, as the last and the best prompt may.
    held = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with atomic(path) as temporary:
        save_file(held, temporary, metadata={"fedprofit": facts_text(facts)})
        seal_file(temporary)


def load_tensors(
    path: Path, device: torch.device | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`. Raise UserError if it is damaged."""
    tensors, facts = read_tensors(path, "Delete it and run with --resume.")
    return {name: tensor.to(device or "cpu") for name, tensor in tensors.items()}, facts


def save_state(path: Path, state: ServerState, best: Params, facts: dict[str, Any]) -> None:
    """Write the server's state, the best parameters so far, and facts such as the history."""
    groups = {"params": state.params, "best": best}
    for section, named in (("optimizer", state.optimizer), ("extra", state.extra)):
        groups |= {f"{section}/{name}": tensors for name, tensors in named.items()}
    tensors = {f"{group}/{key}": tensor for group, params in groups.items() for key, tensor in params.items()}
    save_tensors(path, tensors, {**facts, "round": state.round, ORDER: list(tensors)})


def load_state(path: Path, device: torch.device) -> tuple[ServerState, Params, dict[str, Any]]:
    """Read a file of `save_state`."""
    tensors, facts = load_tensors(path, device)
    plain: dict[str, Params] = {"params": {}, "best": {}}
    named: dict[str, dict[str, Params]] = {"optimizer": {}, "extra": {}}
    # In the saved order: sums over tensors are then bit-identical.
    for path_inside in facts.get(ORDER, tensors):
        tensor = tensors[path_inside]
        section, _, key = path_inside.partition("/")
        if section in plain:
            plain[section][key] = tensor
        else:
            name, _, key = key.partition("/")
            named[section].setdefault(name, {})[key] = tensor
    state = ServerState(plain["params"], named["optimizer"], facts["round"], named["extra"])
    return state, plain["best"], facts
