"""FedAvg of the same clients with pfl-research's FederatedAveraging, its SimulatedBackend and the peft model.

The setup follows pfl's benchmark for language models (https://github.com/apple/pfl-research, benchmarks/llm).
The peft model gets the methods `loss` and `metrics`. The central optimizer is SGD with rate 1, so that a
round computes the average weighted by examples. Each user's data are in memory, and each batch is padded to
its longest row. With several processes, started by torchrun, pfl divides the users among them.
"""

import functools
import os
import types
from typing import Any

import numpy as np
import torch
from work import ADAM, Losses, Method, Settings, Work, padded, prepare

from peers.peft_loop import peft_model, prompt_of


def pfl_model(work: Work, losses: list[float]) -> Any:
    """Make pfl's model from peft's; each training loss is appended to `losses`."""
    # By default, pfl uses a GPU if there is one.
    os.environ["PFL_PYTORCH_DEVICE"] = str(work.backbone.device)
    from pfl.model.pytorch import PyTorchModel

    model = peft_model(work)

    def loss(self: Any, **batch: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self(**batch).loss
        losses.append(float(found.detach()))
        return found

    def metrics(self: Any, **batch: torch.Tensor) -> dict[str, Any]:
        # pfl evaluates every user before and after training in its first iteration. The other methods
        # evaluate nothing, so this must take no time.
        return {}

    model.loss, model.metrics = types.MethodType(loss, model), types.MethodType(metrics, model)
    central = torch.optim.SGD([prompt_of(model)], lr=1.0)
    return PyTorchModel(model, local_optimizer_create=torch.optim.Adam, central_optimizer=central)


def make_backend(work: Work) -> Any:
    """Make the simulation: each client is a user, and each round has all users in order."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchDataDataset
    from pfl.data.sampling import get_user_sampler

    collate = functools.partial(padded, work.backbone.device)

    def make_user(number: int) -> Any:
        rows = [example for batch in work.clients[number].batches for example in batch]
        return PyTorchDataDataset(rows, collate_fn=collate)

    sampler = get_user_sampler("minimize_reuse", range(len(work.clients)))
    data = FederatedDataset(make_user, sampler)
    return SimulatedBackend(training_data=data, val_data=None, postprocessors=[WeightByDatapoints()])


def simulate(work: Work, model: Any, rounds: int) -> None:
    """Run federated averaging."""
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.hyperparam.base import NNTrainHyperParams

    train = NNTrainHyperParams(
        local_num_epochs=1,
        local_learning_rate=ADAM.rate,
        local_batch_size=len(work.clients[0].batches[0]),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,
            train_cohort_size=len(work.clients),
            val_cohort_size=0,
        ),
        backend=make_backend(work),
        model=model,
        model_train_params=train,
        send_metrics_to_platform=False,
    )


def pfl_simulation(work: Work) -> Method:
    """Build the method, which runs one round over all clients."""
    losses: list[float] = []
    model = pfl_model(work, losses)

    def run() -> Losses:
        work.backbone.model.set_attn_implementation("sdpa")
        losses.clear()
        prompt_of(model.pytorch_model).data.copy_(work.start)
        simulate(work, model, rounds=1)
        steps = len(work.clients[0].batches)
        return [losses[at : at + steps] for at in range(0, len(losses), steps)]

    return run


def pfl_rounds(settings: Settings, rounds: int) -> list[float]:
    """Run rounds; return the mean loss of each, which is the same in all processes of torchrun."""
    np.random.seed(settings.seed)  # pfl draws from the global generator, which must be equal in all processes
    losses: list[float] = []
    work = prepare(settings)
    simulate(work, pfl_model(work, losses), rounds)
    by_round = torch.tensor(losses, dtype=torch.float64).reshape(rounds, -1)
    sums = torch.stack([by_round.sum(1), torch.full((rounds,), float(by_round.shape[1]))])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
        # pfl does not close its process group; a process may then abort when it exits.
        torch.distributed.destroy_process_group()
    means: list[float] = (sums[0] / sums[1]).tolist()
    return means
