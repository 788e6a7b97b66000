"""A study's runs on a Ray cluster (extra `ray`): the same run, wherever there is room for it.

A run asks for as many processors as its `backbone.workers`, and for a GPU where its `backbone.device` is one,
or is `auto` and a node had one, with processors enough, when the study began.
It is computed in the cache folder of the node that gets it, so that a run that is tried again on the same
node goes on where it was, and its files travel back. The data must lie at the same path on every node;
the model comes from each node's own cache.
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
from fedprofit.studies.pools import compute, described, foresee
from fedprofit.studies.spec import PlannedRun

# What else a run leaves (its checkpoint, its parts) serves to go on with it, and stays behind.
TRAVEL = ("*.parquet", "*.json", "config.yaml", "run.log", "prompts/*", "parts/history-*.json")


def compute_there(
    mapping: dict[str, Any], key: str, plugins: Sequence[PluginFile] = ()
) -> tuple[float, dict[str, bytes]]:
    """Compute a run on a node; return its seconds and its files by path below its folder."""
    folder = cache_folder() / "runs" / f"{key}-{package_version('fedprofit')}"  # another version begins anew
    began = time.monotonic()
    compute(mapping, str(folder), plugins)
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in TRAVEL
        for path in sorted(folder.glob(pattern))
    }
    shutil.rmtree(folder)
    return time.monotonic() - began, found


def needs(config: Config, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the processors and GPUs that a run asks for of nodes with these resources.

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
    could = any(node.get("GPU", 0) >= 1 and node.get("CPU", 0) >= cpus for node in nodes)
    wants = device.startswith("cuda") or (device == "auto" and could)
    return {"num_cpus": cpus, "num_gpus": int(wants)}


def room(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Return how many runs that ask for so much a node computes at a time.

    >>> room({"CPU": 64, "GPU": 2}, {"num_cpus": 4, "num_gpus": 1})
    2
    """
    names = {"CPU": "num_cpus", "GPU": "num_gpus"}
    return int(min(node.get(name, 0) // wanted[asked] for name, asked in names.items() if wanted[asked]))


def _knock(address: str) -> None:
    """Raise OSError at once where nothing listens at HOST:PORT: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


class Cluster:
    """A Ray cluster; the address "local" starts one on this machine for as long as it is needed."""

    def __init__(self, address: str, at_a_time: int | None = None, runs: Sequence[PlannedRun] = ()) -> None:
        """Connect, to compute as many of such runs at a time as there is room for, unless it is said.

        Raises UserError if Ray is not installed, or no cluster answers there.
        """
        try:
            import ray
        except ImportError:
            raise UserError("--ray: Ray is not installed. Install the extra: fedprofit[ray].") from None
        self._ray, self._owned = ray, not ray.is_initialized()
        try:
            if self._owned:
                _knock(address)
                ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (OSError, ValueError) as error:
            raise UserError(f"--ray {address}: no cluster answers ({error}). Check the address.") from None
        # Nodes come and go, but one study's runs are all computed on the same kind of device.
        self._first_nodes = self._nodes()
        wanted = needs(runs[0].config, self._first_nodes) if runs else {"num_cpus": 1, "num_gpus": 0}
        self.at_a_time = at_a_time or max(1, sum(room(node, wanted) for node in self._first_nodes))

    def foresee(self, runs: Sequence[PlannedRun], left: Sequence[float]) -> "Future[Any]":
        """Start to estimate on a node that could take the first of the runs; errors as of `submit`."""
        return self._give(runs[0], foresee, described(runs), self.at_a_time, left, loaded_files())

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Hand a run to the cluster; UserError if no node could ever take it, for which Ray would wait."""
        return self._give(planned, compute_there, planned.config.to_mapping(), planned.key, loaded_files())

    def _give(self, planned: PlannedRun, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Have a task computed with what a run asks for."""
        wanted, nodes = needs(planned.config, self._first_nodes), self._nodes()
        cpus, gpus = wanted["num_cpus"], wanted["num_gpus"]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            raise UserError(
                f"--ray: a run asks for {cpus:g} processors and {gpus:g} GPUs (backbone.workers, "
                "backbone.device), and no node of the cluster has them. Lower them, or add such a node."
            )
        # Ray's own retries would not be counted or told of.
        remote = self._ray.remote(task).options(**wanted, max_retries=0)
        future: Future[Any] = remote.remote(*arguments).future()
        return future

    def _nodes(self) -> list[Mapping[str, float]]:
        there: list[dict[str, Any]] = self._ray.nodes()  # type: ignore[no-untyped-call]
        return [node["Resources"] for node in there if node["Alive"]]

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Write the run's files into its folder and return its seconds."""
        seconds, found = done.result()
        with atomic(folder) as temporary:
            for name, content in found.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            shutil.rmtree(folder, ignore_errors=True)  # what a run on this machine may have begun
        return float(seconds)

    def has_died(self, error: BaseException) -> bool:
        """Tell whether a node or its process died."""
        gone = self._ray.exceptions
        return isinstance(error, gone.WorkerCrashedError | gone.NodeDiedError | gone.ObjectLostError)

    def close(self) -> None:
        """Leave the cluster."""
        if self._owned:
            self._ray.shutdown()
