"""A run that is killed repeatedly at random moments gives bit-identical results."""

import random
import time

import pytest
from tiny_run import begin, call, write_config

KILLS = 20
SAME = ("results.parquet", "summary.json", "config.yaml")


@pytest.fixture
def finished(tmp_path):
    config = write_config(tmp_path)
    done = call("run", config, "--out", tmp_path / "whole", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return config, tmp_path / "whole"


def test_killed_runs_resume_to_the_same_bits(finished, tmp_path):
    config, whole = finished
    out, kills, starts, midway = tmp_path / "killed", 0, 0, 0
    draw = random.Random(0)
    while kills < KILLS:
        starts += 1
        assert starts < 4 * KILLS, "the run ends before it can be killed"
        process = begin("run", config, "--out", out, "--resume", "--quiet", cwd=tmp_path)
        # Kill it at the start, or at a random moment while it writes its next files.
        before = len(written(out))
        more = before + draw.randint(0, 3)
        while process.is_alive() and len(written(out)) < more:
            time.sleep(0.01)
        process.join(draw.uniform(0.0, 0.3))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            midway += len(written(out)) > before
        else:
            assert process.exitcode == 0
            # The run completed: compare its results and start another, so that each kill hits a live run.
            compare(whole, out)
            out = tmp_path / f"killed-{starts}"
    done = call("run", config, "--out", out, "--resume", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compare(whole, out)
    assert midway >= KILLS // 2, "too few kills hit a working run"


def written(out):
    return [path for folder in ("parts", "checkpoints", "prompts") for path in (out / folder).glob("*")]


def compare(whole, out):
    for name in SAME:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    prompts = sorted(path.name for path in (whole / "prompts").iterdir())
    assert prompts == sorted(path.name for path in (out / "prompts").iterdir() if path.suffix != ".part")
    for name in prompts:
        assert (out / "prompts" / name).read_bytes() == (whole / "prompts" / name).read_bytes(), name
