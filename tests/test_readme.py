"""What the README says, done: its configuration, its commands and its Python, on a tiny model."""

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


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)
    return [text for name, text in fenced if name == language]


def commands() -> list[str]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(("fedprofit ", "make "))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder: the README's configuration, a table that fits it, and a model."""
    place = tmp_path_factory.mktemp("user")
    rows = [
        {"team": f"team-{t}", "question": f"what is {t} and {n}?", "answer": f"it is {t + n}"}
        for t in range(6)
        for n in range(12)
    ]
    (place / "tickets.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tiny_folder(place).rename(place / "model")
    (configuration,) = blocks("yaml")
    # The tests have no network: the tiny model stands in for the default one.
    small = "backbone: {name: ./model}\nevaluation: {max_new_tokens: 4}\n"
    (place / "mine.yaml").write_text(configuration + small)
    return place


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("fedprofit")])
def test_commands(line, folder):
    words = line.replace("path/to/model", "./model").split()[1:]
    if words[0] == "run" and "--set" in words:
        words += ["--out", "runs/own-model"]  # the stand-in makes it the same run as the one before
    done = call(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_make_targets():
    targets = [line.split()[1] for line in commands() if line.startswith("make")]
    assert targets == ["quickstart", "test"]
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_python(folder):
    (code,) = blocks("python")
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


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
