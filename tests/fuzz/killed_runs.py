"""Runs and studies that are killed at random moments, resumed, and compared with undisturbed ones."""

import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from faults import HANG, SILENT, TRACEBACK, UNCHANGED, Outcome
from tiny_run import begin, call, write_config

from fedprofit.core import yaml_text
from fedprofit.core.reading import read_parquet

LIMIT = 120.0  # seconds for a resumed command, and for the end of a process after a signal
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STUDY_SHARE = 0.25  # of the kills; the others are of a run


def killed_runs(place: Path, seed: int, count: int) -> Iterator[Outcome]:
    """Kill a run, and a study of two parallel runs; yield the outcome of each kill."""
    os.environ["FEDPROFIT_CACHE"] = str(place / "cache")
    draw, config = random.Random(seed), write_config(place)
    study = place / "study.yaml"
    study.write_text(
        yaml_text.dump({"name": "killed", "base": config.name, "axes": {"seed": [0, 1]}}), encoding="utf-8"
    )
    studies = round(STUDY_SHARE * count)
    yield from _Killed(place, "run", config).kills(draw, count - studies)
    yield from _Killed(place, "study", study).kills(draw, studies)


class _Killed:
    """A command, and its results and seconds when it is not killed."""

    def __init__(self, place: Path, name: str, config: Path) -> None:
        self.place, self.name, self.config = place, name, config
        self.reference, began = place / f"{name}-whole", time.monotonic()
        done = call(*self.arguments(self.reference), cwd=place)
        if done.returncode:
            raise RuntimeError(f"the {name} fails without being killed: {done.stderr}")
        self.seconds = time.monotonic() - began

    def arguments(self, out: Path) -> list[str | Path]:
        more = ["--quiet"] if self.name == "run" else ["--workers", "2"]
        return [self.name, self.config, "--out", out, "--resume", *more]

    def kills(self, draw: random.Random, count: int) -> Iterator[Outcome]:
        """Kill the command `count` times; after it completes, start it in a new folder."""
        pending, done, folder = list[str](), 0, 0
        while done < count:
            out, errors = self.place / f"{self.name}-{folder}", self.place / "errors.txt"
            errors.write_text("")
            process = begin(*self.arguments(out), cwd=self.place, prints=(os.devnull, str(errors)))
            process.join(draw.uniform(0, self.seconds))
            number = draw.choice(SIGNALS)
            if process.is_alive():
                ended = _ended(process, number)
                pending.append(f"signal {number.name} in {out.name}")
                done += 1
                if not ended or "Traceback" in errors.read_text("utf-8"):
                    yield Outcome(self.name, HANG if not ended else TRACEBACK, pending.pop())
            elif not process.exitcode:
                yield from self.judged(pending, out)
                pending, folder = [], folder + 1
            else:
                yield Outcome(self.name, TRACEBACK, f"resumed in {out.name}: {errors.read_text('utf-8')}")
                pending, folder = [], folder + 1
        out, errors = self.place / f"{self.name}-{folder}", self.place / "errors.txt"
        process = begin(*self.arguments(out), cwd=self.place, prints=(os.devnull, str(errors)))
        process.join(LIMIT)
        if process.is_alive() or process.exitcode:
            result = HANG if process.is_alive() else TRACEBACK
            process.kill()
            yield Outcome(self.name, result, f"resumed in {out.name}: {errors.read_text('utf-8')}")
        else:
            yield from self.judged(pending, out)

    def judged(self, kills: list[str], out: Path) -> Iterator[Outcome]:
        """Yield an outcome for each kill of a completed folder."""
        result = UNCHANGED if _content(out) == _content(self.reference) else SILENT
        yield from (Outcome(self.name, result, kill) for kill in kills)


def _ended(process: BaseProcess, number: signal.Signals) -> bool:
    """Send a signal; return whether the process ends within the limit."""
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(LIMIT)
    ended = not process.is_alive()
    process.kill()
    process.join()
    return ended


def _content(out: Path) -> dict[str, object]:
    """Return what must not depend on kills: the sorted rows, and every prompt's bytes."""
    table = read_parquet(out / "results.parquet", "")
    rows = table.sort(table.columns).write_ipc(None).getvalue()
    prompts = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("prompts/*.safetensors")}
    return {"results": rows, **prompts}
