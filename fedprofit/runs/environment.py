"""Facts beyond the configuration on which results depend: versions, machine, hashes of data and model.

The section `computed`, versions and the machine may change when a run is resumed. Sums are then rounded
differently, in every dtype; each change is recorded in `resumed`.
"""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json
from fedprofit.core.sealed import write_record
from fedprofit.evaluate.rules import recorded_variant
from fedprofit.plugins import used_plugins
from fedprofit.runs.folder import ENVIRONMENT, RunFolder

if TYPE_CHECKING:
    from fedprofit.backbone.engine import Engine

NEW_RUN = "Or start a new run: choose another folder with --out, or remove this one."
PACKAGES = ("fedprofit", "torch", "transformers", "safetensors", "numpy", "polars", "rouge-score", "regex")


def environment(config: Config, engine: "Engine", data_fingerprint: str) -> dict[str, Any]:
    """Collect the facts beyond the configuration on which results depend."""
    import torch  # here: reports read versions without importing torch or pyarrow

    from fedprofit.data.sources import content

    backbone = engine.backbone
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(name) for name in PACKAGES},
            "commit": commit(),
        },
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if backbone.device.type == "cuda" else "cpu",
        },
        "seed": config.seed,
        "config_hash": config.hash,
        "regime": config.evaluation.regime,
        "data_hash": data_fingerprint,
        "data_content": content(config.data.source),
        "model": {"name": backbone.name, "hash": backbone.fingerprint, "dtype": str(backbone.dtype)},
        "plugins": used_plugins(config),
        "computed": {
            "attention": engine.attention,
            "reason": engine.reason,
            "token_budget": engine.token_budget,
            "workers": engine.workers,
        },
    }


def write_environment(folder: RunFolder, facts: dict[str, Any]) -> list[str]:
    """Record the environment at a run's first start; when it is resumed, record and return the changes.

    Changes are relative to the last process that computed the run.
    """
    path = folder.environment
    if not path.exists():
        write_record(path, facts)
        return []
    recorded = folder.read_environment()
    resumed: list[dict[str, list[Any]]] = recorded.get("resumed", [])
    before = {f"{section}.{key}": value for section, key, value in _changeable(recorded)}
    for change in resumed:
        before |= {name: now for name, (_, now) in change.items()}
    # A run started by an earlier version lacks some facts.
    differs = {
        name: [before[name], value]
        for section, key, value in _changeable(facts)
        if (name := f"{section}.{key}") in before and before[name] != value
    }
    if differs:
        write_record(path, recorded | {"resumed": [*resumed, differs]})
    return [f"{name} was {was!r}, is {now!r}" for name, (was, now) in differs.items()]


def _changeable(facts: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """List the facts that may change when a run is resumed: section, key, value."""
    sections = ("versions", "machine", "plugins", "computed")
    return [(section, key, value) for section in sections for key, value in facts.get(section, {}).items()]


def check_environment(folder: RunFolder, config: Config, facts: dict[str, Any]) -> None:
    """Raise UserError if a run was started with other data, another model or other scoring rules."""
    if not folder.environment.exists():
        return
    before = read_json(folder.environment, NEW_RUN, ENVIRONMENT)
    for what, was, now in (
        ("data", before["data_hash"], facts["data_hash"]),
        ("model", before["model"]["hash"], facts["model"]["hash"]),
    ):
        if was != now:
            raise UserError(
                f"{folder.path}: the {what} changed since the run was started ({was}, now {now}). Restore it "
                f"(a file above 256 MiB is identified by its size and modification time). {NEW_RUN}"
            )
    for metric in config.evaluation.metrics:
        was, now = (recorded_variant(each, metric.name).name for each in (before, facts))
        if was != now:
            raise UserError(
                f"{folder.path}: {metric.name} was scored with {was!r} when the run was started, but "
                f"would be with {now!r} now; the scores are not comparable. Resume with the version that "
                f"started it. {NEW_RUN}"
            )


def check_content(folder: RunFolder, config: Config) -> None:
    """Raise UserError if the data of a complete run has changed since, if both are known.

    Data in the package itself depends on the version, which the run records.
    """
    from fedprofit.data.sources import content  # here: see above

    known = read_json(folder.environment, NEW_RUN) if folder.environment.exists() else {}
    was = known.get("data_content")
    now = content(config.data.source) if was and not config.data.source.comes_with_package else ""
    if now and was != now:
        raise UserError(
            f"{folder.path}: is complete, and the data changed since ({was}, now {now}). Restore the "
            f"data. {NEW_RUN}"
        )


def in_words(environments: Iterable[dict[str, Any]]) -> str:
    """Describe the environment of runs in short: version, dtypes and all processors.

    >>> in_words([{"versions": {"fedprofit": "0.1.0", "commit": "1f2e3d4"}, "machine": {"processor": "A"}}])
    'version 0.1.0 at 1f2e3d4, A'
    """
    found = list(environments)
    made = [one.get("versions", {}) for one in found]
    versions = _each_once(one.get("fedprofit", "") for one in made)
    commits = _each_once(one.get("commit", "") for one in made if one.get("commit") != "none")
    types = _each_once(str(one.get("model", {}).get("dtype", "")).removeprefix("torch.") for one in found)
    version = f"version {versions}{f' at {commits}' if commits else ''}" if versions else ""
    return ", ".join(filter(None, (version, types, processors(found))))


def processors(environments: Iterable[dict[str, Any]]) -> str:
    """Name the processors of all runs."""
    return _each_once(one.get("machine", {}).get("processor", "") for one in environments)


def _each_once(names: Iterable[str]) -> str:
    return " and ".join(filter(None, dict.fromkeys(names)))


def commit() -> str:
    """Name the last commit that changed this package, with "+" if it has changes; "none" outside a clone."""
    package = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *words, "--", "."], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        found = git("log", "-1", "--format=%h")
        return found + "+" * bool(git("status", "--porcelain")) if found else "none"
    except OSError:
        return "none"  # git is not installed


def processor() -> str:
    """Name the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package_version(package: str) -> str:
    """Return an installed package's version, or "unknown"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
