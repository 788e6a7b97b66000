"""FedAvg of the same clients with Flower's simulation on Ray and the peft model.

The apps follow Flower's example for language models (https://github.com/adap/flower,
examples/flowertune-llm): the server sends the adapter's state dict, the client trains it, and the server
averages by the number of examples. Each actor has one core. The example makes the model and the data for
every message; here, an actor makes them once.

`run_simulation` is deprecated in favour of `flwr run`, which packages the app, starts a server, and then runs
the same simulation. The time of these steps is not included here.
"""

import os
from functools import lru_cache
from typing import Any

# flwr and ray read these variables when they are imported; the actors inherit them.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from work import Settings, Work, prepare

from peers.peft_loop import peft_model, train_client

client_app = ClientApp()


@lru_cache(maxsize=1)
def actor_state(settings: Settings) -> tuple[Work, Any]:
    """Make the batches and the peft model of an actor, once; use one thread."""
    torch.set_num_threads(1)
    work = prepare(settings)
    return work, peft_model(work)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client from the server's prompt."""
    names = Settings.__dataclass_fields__
    config = message.content["config"]
    work, model = actor_state(Settings(**{name: config[name] for name in names}))
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    client = work.clients[int(context.node_config["partition-id"])]
    losses = train_client(model, client, work.backbone.device)
    metrics = {"train_loss": sum(losses) / len(losses), "num-examples": int(client.weight)}
    content = {
        "arrays": ArrayRecord(get_peft_model_state_dict(model)),
        "metrics": MetricRecord(metrics),
    }
    return Message(content=RecordDict(content), reply_to=message)


def flower_rounds(settings: Settings, rounds: int) -> list[float]:
    """Run rounds with one actor per thread; return the mean loss of each round."""
    server_app, losses = ServerApp(), []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        start = get_peft_model_state_dict(peft_model(prepare(settings)))  # the server reads no data
        all_clients = {"min_train_nodes": settings.clients, "min_available_nodes": settings.clients}
        result = FedAvg(fraction_evaluate=0.0, **all_clients).start(
            grid, ArrayRecord(start), num_rounds=rounds, train_config=ConfigRecord(dict(vars(settings)))
        )
        records = result.train_metrics_clientapp
        losses.extend(float(records[number]["train_loss"]) for number in sorted(records))

    # Without a share of the GPU, Ray would hide it from the actors.
    resources = {"num_cpus": 1, "num_gpus": 1 / settings.threads if torch.cuda.is_available() else 0.0}
    run_simulation(
        server_app,
        client_app,
        num_supernodes=settings.clients,
        backend_config={"init_args": {"num_cpus": settings.threads}, "client_resources": resources},
    )
    return losses
