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


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-like facts to one safetensors file."""
    # Cloned: safetensors refuses tensors that share memory, as the last and the best prompt may.
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
    """Read what `save_tensors` wrote; UserError if it is damaged."""
    tensors, facts = read_tensors(path, "Delete it and run with --resume.")
    return {name: tensor.to(device or "cpu") for name, tensor in tensors.items()}, facts


def save_state(path: Path, state: ServerState, best: Params, facts: dict[str, Any]) -> None:
    """Write the server's state, the best parameters so far, and facts such as the history."""
    tensors = {f"params/{key}": tensor for key, tensor in state.params.items()}
    tensors |= {f"best/{key}": tensor for key, tensor in best.items()}
    for name, moment in state.optimizer.items():
        tensors |= {f"optimizer/{name}/{key}": tensor for key, tensor in moment.items()}
    save_tensors(path, tensors, {**facts, "round": state.round})


def load_state(path: Path, device: torch.device) -> tuple[ServerState, Params, dict[str, Any]]:
    """Read what `save_state` wrote."""
    tensors, facts = load_tensors(path, device)
    groups: dict[str, Params] = {"params": {}, "best": {}}
    for name, tensor in tensors.items():
        group, _, key = name.rpartition("/")
        groups.setdefault(group, {})[key] = tensor
    moments = {
        name.removeprefix("optimizer/"): value
        for name, value in groups.items()
        if name.startswith("optimizer/")
    }
    return ServerState(groups["params"], moments, facts["round"]), groups["best"], facts
