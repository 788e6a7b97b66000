"""Real processes and signals: Ctrl-C prints one line, and no process outlives its parent."""

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

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads processes from /proc")
DEADLINE = 10.0  # seconds; 0.1 to 0.5 measured
IMPORTING = """
import os, pathlib, time
pathlib.Path(os.environ["STARTED"], str(os.getpid())).touch()
time.sleep(300)
"""


class StartedCommand:
    """A command in a new process group, whose import of torch never ends."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        for name in ("torch", "started"):
            (folder / name).mkdir()
        (folder / "torch" / "__init__.py").write_text(IMPORTING)
        self.tag, self.marks = uuid.uuid4().hex, folder / "started"
        path = os.pathsep.join([str(folder), *sys.path])
        given = {**surroundings(), "PYTHONPATH": path, "TAG": self.tag, "STARTED": str(self.marks)}
        self.errors = folder / "errors.txt"
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                command(*arguments), cwd=folder, env=given, stderr=errors, start_new_session=True
            )

    def wait_for_import(self) -> None:
        while not any(self.marks.iterdir()):
            assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.02)

    def ends(self) -> int:
        """Return the exit status; all processes must end before the deadline."""
        deadline = time.monotonic() + DEADLINE
        try:
            status = self.process.wait(DEADLINE)
            while processes_of(self.tag):
                assert time.monotonic() < deadline, f"still running: {processes_of(self.tag)}"
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
def test_ctrl_c_prints_one_line_while_importing(tmp_path, name):
    started = StartedCommand(
        tmp_path, name, write_study(tmp_path) if name == "study" else write_config(tmp_path)
    )
    started.wait_for_import()
    os.killpg(started.process.pid, signal.SIGINT)
    assert started.ends() == 130
    resumable = "; resume with --resume" * (name in ("run", "study"))
    lines = started.errors.read_text().splitlines()
    assert [line for line in lines if "runs remaining" not in line] == [f"stopped{resumable}"]


@linux
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_processes_of_study_end_with_it(tmp_path, by):
    started = StartedCommand(tmp_path, "study", write_study(tmp_path))
    started.wait_for_import()
    assert len(processes_of(started.tag)) > 1
    started.process.send_signal(by)
    assert started.ends() == -by
