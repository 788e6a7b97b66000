"""Computation of a study's runs on a Ray cluster (extra `ray`).

A run requests as many CPUs as its `backbone.workers`. It requests a GPU if its `backbone.device` is one, or
if that is `auto` and some node had a GPU and enough CPUs when the study started.
A run is computed in the cache folder of its node, so that another attempt on that node resumes it. Its files
are then sent back. The data must have the same path on every node. Models come from each node's cache.
"""

import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.files import atomic, cache_folder
from fedprofit.plugins import PluginFile, loaded_files
from fedprofit.runs.environment import package_version
from fedprofit.studies.pools import compute, described, estimate_seconds
from fedprofit.studies.spec import PlannedRun

# Other files (the checkpoint, the parts) only serve to resume the run on the node.
SENT_BACK = ("*.parquet", "*.json", "config.yaml", "run.log", "prompts/*", "parts/history-*.json")


def compute_on_node(
    mapping: dict[str, Any], key: str, plugins: Sequence[PluginFile] = ()
) -> tuple[float, dict[str, bytes]]:
    """Compute a run on a node; return its seconds and its files by path relative to its folder."""
    folder = cache_folder() / "runs" / f"{key}-{package_version('fedprofit')}"  # one per version
    began = time.monotonic()
    compute(mapping, str(folder), plugins)
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in SENT_BACK
        for path in sorted(folder.glob(pattern))
    }
    shutil.rmtree(folder)
    return time.monotonic() - began, found


def needs(config: Config, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the CPUs and GPUs that a run requests, given the resources of the nodes.

    >>> from fedprofit.config.file import from_mapping
    >>> algorithms = [{"kind": "fedsgd", "name": "sgd"}]
    >>> run = {"name": "x", "data": {"source": {"kind": "lexicon"}}, "training": {"algorithms": algorithms}}
    >>> needs(from_mapping(run | {"backbone": {"device": "cuda", "workers": 2}}), [{"CPU": 8}])
    {'num_cpus': 2, 'num_gpus': 1}
    >>> needs(from_mapping(run), [{"CPU": 64}, {"CPU": 8, "GPU": 1}])
    {'num_cpus': 1, 'num_gpus': 1}
    >>> needs(from_mapping(run | {"backbone": {"workers": 16}}), [{"CPU": 64}, {"CPU": 8, "GPU": 1}])
    {'num_cpus': 16, 'num_gpus': 0}
    """
    workers, device = config.backbone.workers, config.backbone.device
    cpus = 1 if workers == "auto" else workers
    has_gpu = any(node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= cpus for node in nodes)
    wants_gpu = device.startswith("cuda") or (device == "auto" and has_gpu)
    return {"num_cpus": cpus, "num_gpus": int(wants_gpu)}


def capacity(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Return how many runs with these requests a node can compute in parallel.

    >>> capacity({"CPU": 64, "GPU": 2}, {"num_cpus": 4, "num_gpus": 1})
    2
    """
    names = {"CPU": "num_cpus", "GPU": "num_gpus"}
    return int(min(node.get(name, 0) // wanted[asked] for name, asked in names.items() if wanted[asked]))


def _check_address(address: str) -> None:
    """Raise OSError at once if nothing listens at HOST:PORT: Ray itself retries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


class Cluster:
    """A Ray cluster. The address "local" starts one on this machine until `close`."""

    def __init__(self, address: str, at_a_time: int | None = None, runs: Sequence[PlannedRun] = ()) -> None:
        """Connect to the cluster; by default, compute as many runs in parallel as its nodes can.

        Raises UserError if Ray is not installed, or if no cluster answers at the address.
        """
        try:
            import ray
        except ImportError:
            raise UserError("--ray: Ray is not installed. Install the extra: fedprofit[ray].") from None
        self._ray, self._owned = ray, not ray.is_initialized()
        try:
            if self._owned:
                _check_address(address)
                ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (OSError, ValueError) as error:
            raise UserError(f"--ray {address}: no cluster answers ({error}). Check the address.") from None
        # Nodes may change, but all runs of a study are computed on the same kind of device.
        self._first_nodes = self._nodes()
        wanted = needs(runs[0].config, self._first_nodes) if runs else {"num_cpus": 1, "num_gpus": 0}
        self.at_a_time = at_a_time or max(1, sum(capacity(node, wanted) for node in self._first_nodes))

    def estimate(self, runs: Sequence[PlannedRun], left: Sequence[float]) -> "Future[Any]":
        """Start the estimate on a node with the resources of the first run; errors as for `submit`."""
        return self._start(runs[0], estimate_seconds, described(runs), self.at_a_time, left, loaded_files())

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Submit a run. Raise UserError if no node has the resources: Ray would wait forever."""
        return self._start(planned, compute_on_node, planned.config.to_mapping(), planned.key, loaded_files())

    def _start(self, planned: PlannedRun, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Submit a task with a run's resource requests."""
        wanted, nodes = needs(planned.config, self._first_nodes), self._nodes()
        cpus, gpus = wanted["num_cpus"], wanted["num_gpus"]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            raise UserError(
                f"--ray: a run requests {cpus:g} processors and {gpus:g} GPUs (backbone.workers, "
                "backbone.device), but no node of the cluster has them. Lower them, or add such a node."
            )
        # Ray's own retries would be neither counted nor reported.
        remote = self._ray.remote(task).options(**wanted, max_retries=0)
        future: Future[Any] = remote.remote(*arguments).future()
        return future

    def _nodes(self) -> list[Mapping[str, float]]:
        nodes: list[dict[str, Any]] = self._ray.nodes()  # type: ignore[no-untyped-call]
        return [node["Resources"] for node in nodes if node["Alive"]]

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Write the run's files into its folder; return its seconds."""
        seconds, found = done.result()
        with atomic(folder) as temporary:
            for name, content in found.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            shutil.rmtree(folder, ignore_errors=True)  # remove an attempt of this machine
        return float(seconds)

    def has_died(self, error: BaseException) -> bool:
        """Return whether a node or its process died."""
        gone = self._ray.exceptions
        return isinstance(error, gone.WorkerCrashedError | gone.NodeDiedError | gone.ObjectLostError)

    def close(self) -> None:
        """Disconnect from the cluster."""
        if self._owned:
            self._ray.shutdown()
