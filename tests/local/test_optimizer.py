"""Stacked optimizers, compared with torch.optim for each client; clients may skip steps."""

import pytest
import torch

from fedprofit.local.optimizer import ClientOptimizerSettings


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_stacked_equals_torch(name, decay):
    settings = ClientOptimizerSettings.model_validate({"kind": name, "rate": 0.1, "weight_decay": decay})
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=generator)
    optimizer = settings.build()
    params = {"prompt": start.clone()}
    state = optimizer.init(params)
    separate = [start[k].clone().requires_grad_() for k in range(3)]
    theirs = [settings.in_torch([parameter]) for parameter in separate]
    for active in ([True, True, True], [True, False, True], [False, False, True], [True, True, True]):
        gradient = torch.randn(3, 4, 5, generator=generator)
        params, state = optimizer.update(params, {"prompt": gradient}, state, torch.tensor(active))
        for k in range(3):
            if active[k]:
                separate[k].grad = gradient[k]
                theirs[k].step()
    torch.testing.assert_close(
        params["prompt"], torch.stack([p.detach() for p in separate]), rtol=1e-6, atol=1e-6
    )
    assert state.steps.tolist() == [3, 2, 4]
