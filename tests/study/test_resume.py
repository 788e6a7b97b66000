"""A run killed again and again, at random moments, ends in the same bits as one left alone."""

import random
import subprocess
import time

import pytest
from tiny_run import call, command, surroundings, write_config

KILLS = 20
SAME = ("results.parquet", "summary.json", "config.yaml")


@pytest.fixture
def finished(tmp_path):
    config = write_config(tmp_path)
    began = time.monotonic()
    done = call("run", config, "--out", tmp_path / "whole", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return config, tmp_path / "whole", time.monotonic() - began


def test_killed_runs_resume_to_the_same_bits(finished, tmp_path):
    config, whole, seconds = finished
    out, kills, starts, midway = tmp_path / "killed", 0, 0, 0
    draw = random.Random(0)
    while kills < KILLS:
        starts += 1
        assert starts < 4 * KILLS, "the run ends before it can be killed"
        process = subprocess.Popen(
            command("run", config, "--out", out, "--resume", "--quiet"),
            cwd=tmp_path,
            env=surroundings(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            process.wait(draw.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            midway += any((out / "parts").glob("*")) or any((out / "checkpoints").glob("*.safetensors"))
        else:
            assert process.returncode == 0, process.stderr.read()
            # It came through: keep what it made and begin anew, so that every kill meets a live run, and aim
            # earlier: the run that was timed may have compiled the loops, too.
            compare(whole, out)
            seconds *= 0.9
            out = tmp_path / f"killed-{starts}"
    done = call("run", config, "--out", out, "--resume", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compare(whole, out)
    assert midway >= KILLS // 4, "too few kills met a run at work"


def compare(whole, out):
    for name in SAME:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    prompts = sorted(path.name for path in (whole / "prompts").iterdir())
    assert prompts == sorted(path.name for path in (out / "prompts").iterdir() if path.suffix != ".part")
    for name in prompts:
        assert (out / "prompts" / name).read_bytes() == (whole / "prompts" / name).read_bytes(), name
