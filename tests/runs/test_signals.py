"""Real processes and real signals: Ctrl-C prints one line, and no process outlives its parent."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import yaml
from tiny_run import command, processes_of, surroundings, write_config

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
DEADLINE = 10.0  # seconds; 0.1 to 0.5 are measured
IMPORTING = """
import os, pathlib, time
pathlib.Path(os.environ["TOLD"], str(os.getpid())).touch()
time.sleep(300)
"""


class Begun:
    """A command in a group of processes of its own, whose libraries are never done with being imported."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        for name in ("torch", "told"):
            (folder / name).mkdir()
        (folder / "torch" / "__init__.py").write_text(IMPORTING)
        self.tag, self.told = uuid.uuid4().hex, folder / "told"
        path = os.pathsep.join([str(folder), *sys.path])
        given = {**surroundings(), "PYTHONPATH": path, "TAG": self.tag, "TOLD": str(self.told)}
        self.errors = folder / "errors.txt"
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                command(*arguments), cwd=folder, env=given, stderr=errors, start_new_session=True
            )

    def wait_for_import(self) -> None:
        while not any(self.told.iterdir()):
            assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.02)

    def ends(self) -> int:
        """Return the exit status; all processes must be gone by the deadline."""
        patient = time.monotonic() + DEADLINE
        try:
            status = self.process.wait(DEADLINE)
            while processes_of(self.tag):
                assert time.monotonic() < patient, f"still there: {processes_of(self.tag)}"
                time.sleep(0.02)
        finally:
            for left in processes_of(self.tag):
                os.kill(left, signal.SIGKILL)
        return status


def write_study(folder: Path) -> Path:
    config = write_config(folder)
    (folder / "study.yaml").write_text(
        yaml.safe_dump({"name": "s", "base": config.name, "axes": {"seed": [0, 1]}})
    )
    return folder / "study.yaml"


@linux
@pytest.mark.parametrize("name", ["run", "data", "doctor", "study"])
def test_ctrl_c_while_importing_prints_one_line(tmp_path, name):
    begun = Begun(tmp_path, name, write_study(tmp_path) if name == "study" else write_config(tmp_path))
    begun.wait_for_import()
    os.killpg(begun.process.pid, signal.SIGINT)
    assert begun.ends() == 130
    resumable = "; resume with --resume" * (name in ("run", "study"))
    said = begun.errors.read_text().splitlines()
    assert [line for line in said if "runs to do" not in line] == [f"stopped{resumable}"]


@linux
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_study_began_ends_with_it(tmp_path, by):
    begun = Begun(tmp_path, "study", write_study(tmp_path))
    begun.wait_for_import()
    assert len(processes_of(begun.tag)) > 1
    begun.process.send_signal(by)
    assert begun.ends() == -by
