"""A run that is killed repeatedly at random moments gives bit-identical results."""

import random
import time

import pytest
from examples_plugins import plugin_options
from tiny_run import begin, call, write_config

KILLS = 12
SAME = ("results.parquet", "summary.json", "config.yaml")


# Clients keep state between rounds: personal parameters, and the numbers that top-k has not sent yet.
ALGORITHMS = [
    {"kind": "ditto", "steps": 1, "server": {"kind": "adam", "rate": 0.1}},
    {"kind": "fedsgd", "name": "sparse", "aggregate": [{"kind": "top_k", "share": 0.2}, {"kind": "mean"}]},
]
OPTIONS = ("--quiet", *plugin_options("ditto"))


@pytest.fixture
def finished(tmp_path):
    training = {"rounds": 3, "cohort": 2, "evaluate_every": 1, "algorithms": ALGORITHMS}
    evaluation = {"metrics": ["loss"], "global_examples": 6, "unseen_examples": 4}
    config = write_config(tmp_path, training=training, evaluation=evaluation)
    done = call("run", config, "--out", tmp_path / "reference", *OPTIONS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return config, tmp_path / "reference"


def test_killed_runs_resume_to_the_same_bits(finished, tmp_path):
    config, reference = finished
    out, kills, starts, midway = tmp_path / "killed", 0, 0, 0
    draw = random.Random(0)
    while kills < KILLS:
        starts += 1
        assert starts < 4 * KILLS, "the run ends before it can be killed"
        process = begin("run", config, "--out", out, "--resume", *OPTIONS, cwd=tmp_path)
        # Killed as it starts, or at any moment of the first files that it adds.
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
            compare(reference, out)
            out = tmp_path / f"killed-{starts}"
    done = call("run", config, "--out", out, "--resume", *OPTIONS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compare(reference, out)
    assert midway >= KILLS // 2, "too few kills hit a working run"


def written(out):
    folders = ("parts", "checkpoints", "prompts", "client-states/*")
    return [path for folder in folders for path in out.glob(f"{folder}/*")]


def compare(reference, out):
    for name in SAME:
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name
    prompts = sorted(path.name for path in (reference / "prompts").iterdir())
    assert prompts == sorted(path.name for path in (out / "prompts").iterdir() if path.suffix != ".part")
    for name in prompts:
        assert (out / "prompts" / name).read_bytes() == (reference / "prompts" / name).read_bytes(), name
