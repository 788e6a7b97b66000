"""A plain training loop with peft: one client at a time, padded rows, the loss of the model.

It follows https://huggingface.co/docs/peft/main/en/task_guides/prompt_based_methods
"""

from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from work import ADAM, Losses, Method, Work, padded

from fedprofit.core.types import ClientBatches


def peft_model(work: Work) -> Any:
    """Wrap the backbone with peft's soft prompt, set to the common initial prompt."""
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(work.start))
    model: Any = get_peft_model(work.backbone.model, settings)
    prompt_of(model).data.copy_(work.start)
    return model.eval()


def prompt_of(model: Any) -> torch.nn.Parameter:
    """Return the prompt of a peft model, `[length, width]`, which peft stores in float32."""
    weight: torch.nn.Parameter = model.prompt_encoder["default"].embedding.weight
    return weight


def train_client(model: Any, client: ClientBatches, device: torch.device) -> list[float]:
    """Train the prompt in place with a new Adam, one step per batch; return the loss of each step."""
    optimizer = torch.optim.Adam([prompt_of(model)], lr=ADAM.rate)
    losses = []
    for batch in client.batches:
        loss = model(**padded(device, batch)).loss
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def peft_loop(work: Work) -> Method:
    """Build the method, which trains every client from the same initial prompt."""
    model = peft_model(work)

    def run() -> Losses:
        # The engine shares the model and changes its attention.
        work.backbone.model.set_attn_implementation("sdpa")
        losses = []
        for client in work.clients:
            prompt_of(model).data.copy_(work.start)
            losses.append(train_client(model, client, work.backbone.device))
        return losses

    return run
