"""The README and docs/studies.md: their configurations, commands and Python run on a tiny model."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_folder
from tiny_run import call, surroundings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
PLUGINS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.S | re.M)
    return [text for name, text in fenced if name == language]


def commands(page: str) -> list[str]:
    lines = [line for block in blocks("", page) for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(("fedprofit ", "make "))]


README_ONLY = [line for line in commands(README) if line not in commands(STUDIES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder: the README's configuration, a matching table, and a model."""
    place = tmp_path_factory.mktemp("user")
    rows = [
        {
            "team": f"team-{t}",
            "topic": f"topic-{(t + n) % 3}",
            "question": f"what is {t} and {n}?",
            "answer": f"it is {t + n}",
        }
        for t in range(8)
        for n in range(36)
    ]
    (place / "tickets.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tiny_folder(place).rename(place / "model")
    (configuration,) = blocks("yaml")
    # The tests have no network, so the tiny model replaces the default one.
    (place / "mine.yaml").write_text(configuration + "backbone: {name: ./model}\n")
    for code in (*blocks("python"), *blocks("python", PLUGINS)):
        if code.startswith("# ") and ".py" in code.splitlines()[0]:
            (place / code.splitlines()[0].removeprefix("# ")).write_text(code, encoding="utf-8")
    (study,) = blocks("yaml", STUDIES)
    (place / "rates.yaml").write_text(study)
    return place


def test_readme_commands_run_in_order(folder):
    for line in README_ONLY:
        if line.startswith("fedprofit"):
            done = call(*line.replace("path/to/model", "./model").split()[1:], cwd=folder)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip()
    assert "fedavg" in (folder / "runs" / "mine" / "table.md").read_text("utf-8")


def test_studies_commands_run_in_order(folder):
    """The README must contain no other study commands."""
    assert not [line for line in README_ONLY if "study" in line or "claims" in line]
    for line in commands(STUDIES):
        done = call(*line.split()[1:], cwd=folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    assert (folder / "runs" / "rates" / "claims.md").exists()


def test_readme_make_targets_exist():
    targets = [line.split()[1] for line in commands(README) if line.startswith("make")]
    assert targets == ["quickstart", "test"]
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_readme_python_runs(folder):
    (code,) = (block for block in blocks("python") if not block.startswith("# "))
    code = code.replace("open_bench(rows, ", 'open_bench(rows, "./model", ')  # no network
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "forgetting" in done.stdout
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert (folder / "tradeoff.png").stat().st_size > 1000


def test_plugins_page_example_runs(folder):
    algorithm = "training.algorithms=[{kind: fedavg, steps: 1, aggregate: [{kind: trimmed, drop: 1}]}]"
    small = ["--set", "training.rounds=1", "--set", "evaluation.metrics=[loss]"]
    run = ["run", "mine.yaml", "--plugin", "trimmed.py", "--out", "runs/trimmed", "--set", algorithm, *small]
    for arguments in (run, ["components", "trimmed", "--plugin", "trimmed.py"]):
        done = call(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert "Number of clients dropped" in " ".join(done.stdout.split())


def test_links_are_valid():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
