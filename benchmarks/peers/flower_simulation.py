"""The same clients in Flower: its FedAvg strategy and its simulation on Ray, the model of peft.

The apps are written as those of Flower's example for language models
(https://github.com/adap/flower, examples/flowertune-llm): the adapter's state dict travels, the client
trains, and the server averages by the number of examples. An actor has one core. What the example makes
anew for every message, the model and the data, an actor here makes once and keeps. `run_simulation` is
deprecated in favour of `flwr run`, which starts the same simulation after packing the app and starting a
server of its own: work that is not counted here.
"""

import os
from functools import lru_cache
from typing import Any

# Read when flwr and ray are imported, and by the actors, which inherit them.
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
def actor_side(settings: Settings) -> tuple[Work, Any]:
    """Make what an actor keeps: the work and the peft model, on the one core that it has."""
    torch.set_num_threads(1)
    work = prepare(settings)
    return work, peft_model(work)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client from the server's prompt."""
    names = Settings.__dataclass_fields__
    config = message.content["config"]
    work, model = actor_side(Settings(**{name: config[name] for name in names}))
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
    """Run whole rounds on as many actors as there are threads; return the mean loss of each."""
    server_app, losses = ServerApp(), []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        start = get_peft_model_state_dict(peft_model(prepare(settings)))  # the server reads no data
        everyone = {"min_train_nodes": settings.clients, "min_available_nodes": settings.clients}
        result = FedAvg(fraction_evaluate=0.0, **everyone).start(
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
