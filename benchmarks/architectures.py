"""Check which architectures of transformers this package computes exactly or refuses, and by which path.

    python benchmarks/architectures.py --out docs/architectures.md

Every causal architecture is built as a tiny random model (`tiny_architectures.py`), saved, and loaded from
its folder. The engine is then compared with plain transformers, which loads a second copy: losses, the
gradient of the prompts, the prompts after two steps, and greedy answers.
"""

import argparse
import gc
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, __version__, logging

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from plain_model import NEW, PROMPT, WORDS, Oracle, draw_rows, longest
from tiny_architectures import names, tiny_architecture, tiny_config, tiny_tokenizer

from fedprofit.backbone import load
from fedprofit.backbone.convert import quiet_transformers
from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.workers import shared_workers
from fedprofit.core.errors import UserError
from fedprofit.core.files import write_text

REACH = 80  # tokens of the longest row, including its answer
SHARE = 0.1  # relative change of the prompts in a step
EXACT = 1e-4  # largest relative difference in float32
FAST = ("fused", "packed")


@dataclass(frozen=True)
class Finding:
    """The result of one architecture."""

    name: str
    result: str  # "exact", "refused", "not built", "WRONG" or "TRACEBACK"
    path: str = ""  # of `fedprofit.backbone.paths`
    difference: float = float("nan")  # the largest relative difference
    why: str = ""  # reason for refusal, failure, or a slower path


def examine(name: str, seed: int = 0) -> Finding:
    """Build one architecture, load it from a folder, and compare it with plain transformers."""
    try:
        with quiet_transformers():
            model = tiny_architecture(name, seed)
    except Exception as error:
        # The error depends on the architecture; it always means that no tiny model could be built.
        return Finding(name, "not built", why=first_line(error))
    with tempfile.TemporaryDirectory() as folder, one_model():
        try:
            with quiet_transformers():
                save(model, name, folder)
            del model
            backbone = load.load_backbone(folder, "float32", "cpu")
            engine = make_engine(backbone, workers=1, reach=REACH)
        except UserError as error:
            return Finding(name, "refused", why=reason(error, folder))
        except Exception as error:
            traceback.print_exc(limit=-3)
            return Finding(name, "TRACEBACK", why=first_line(error))
        try:
            differences = compare(engine, folder, seed)
        except Exception as error:
            traceback.print_exc(limit=-3)
            return Finding(name, "TRACEBACK", engine.attention, why=first_line(error))
    worst = max(differences, key=lambda what: differences[what])
    if not differences[worst] <= EXACT:
        return Finding(name, "WRONG", engine.attention, differences[worst], f"{worst} differ")
    return Finding(name, "exact", engine.attention, differences[worst], why_slow(engine))


@contextmanager
def one_model() -> Iterator[None]:
    """Clear the caches of models when the block ends."""
    try:
        yield
    finally:
        load._load.cache_clear()
        shared_workers.cache_clear()
        gc.collect()


def save(model: Any, name: str, folder: str) -> None:
    """Save a model and the tokenizer; for an encoder-decoder, save the configuration of both parts."""
    model.save_pretrained(folder)
    config = tiny_config(name)
    if config.is_encoder_decoder and not getattr(config, "is_decoder", False):
        config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def compare(engine: Engine, folder: str, seed: int = 0) -> dict[str, float]:
    """Return the largest relative difference of each quantity from plain transformers."""
    with quiet_transformers():
        oracle = Oracle(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    context = engine.backbone.context_length or REACH
    rows = [row for row in draw_rows(seed) if longest(row) <= context]
    start = oracle.embed(np.random.default_rng(seed + 1).integers(3, WORDS, 2 * PROMPT)).reshape(
        2, PROMPT, -1
    )
    start = start + start.std() * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    weights = torch.tensor([1 / len(row.example.target) for row in rows])

    losses, gradients = engine.gradients(start, rows, weights)
    true_losses, true_gradients = oracle.gradients(start, rows, weights)
    halves = [(rows[part], weights[part]) for part in (slice(0, None, 2), slice(1, None, 2))]
    moved = true = start
    for half, shares in halves:
        gradient = oracle.gradients(true, half, shares)[1]
        rate = SHARE * float(true.norm() / gradient.norm())
        moved = moved - rate * engine.gradients(moved, half, shares)[1]
        true = true - rate * gradient
    scored, answers = engine.answer(moved, rows, NEW)
    no_prompt = start[:, :0]
    return {
        "losses": loss_difference(losses, true_losses),
        "losses without prompt": loss_difference(engine.score(no_prompt, rows), oracle.losses_by_ids(rows)),
        "losses with answers": loss_difference(scored, oracle.gradients(true, rows, weights)[0]),
        "gradients": distance(gradients, true_gradients),
        "prompts after two steps": distance(moved, true),
        "answers": max(
            oracle.greedy_gap(true, row, answer, engine.backbone.eos_token_ids)
            for row, answer in zip(rows, answers, strict=True)
        ),
    }


def loss_difference(found: Tensor, true: Tensor) -> float:
    """Return the largest relative difference of losses."""
    return float(((found - true).abs() / true.abs()).max())


def distance(found: Tensor, true: Tensor) -> float:
    """Return the relative distance of two tensors."""
    return float((found - true).norm() / true.norm())


def reason(error: UserError, folder: str) -> str:
    """Return the first sentence of a refusal without the name of the folder."""
    text = str(error).replace(repr(folder), "").replace(folder, "")
    text = re.sub(r"^(The )?backbone\W*", "", text)
    return re.split(r"\. (?=[A-Z])", text)[0].rstrip(".")


def why_slow(engine: Engine) -> str:
    """Return why no fast path was selected; "" if one was."""
    if engine.attention in FAST:
        return ""
    found = re.findall(r"not (packed|eager): (.*?)(?=; not |\)$)", engine.reason)
    return "; ".join(f"{path}: {why}" for path, why in found)


def first_line(error: BaseException) -> str:
    """Return an error's type and the first 100 characters of its message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def kind_of(finding: Finding) -> str:
    """Return the category of a finding, one of `KINDS`."""
    if finding.result != "exact":
        return finding.result
    return KINDS[2] if finding.path in FAST else KINDS[3]


KINDS = ("WRONG", "TRACEBACK", "exact by a fast path", "exact by a slow path", "refused", "not built")


def counts(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each kind, as text."""
    numbers = {kind: sum(kind_of(finding) == kind for finding in findings) for kind in KINDS}
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items() if number or kind in KINDS[:2])


def cells(finding: Finding) -> list[str]:
    """Return the table row of a finding."""
    difference = "" if np.isnan(finding.difference) else f"{finding.difference:.0e}"
    return [finding.name, finding.result, finding.path, difference, finding.why]


HEADER = ("architecture", "result", "path", "difference", "why")


def show(findings: Sequence[Finding]) -> None:
    """Print a table of at most 80 columns."""
    table = Table(*HEADER[:3], "diff.", "why")
    for finding in findings:
        table.add_row(*cells(finding))
    Console(width=80).print(table, counts(findings), sep="\n")


def page(findings: Sequence[Finding]) -> str:
    """Return the documentation page in Markdown."""
    built = [finding for finding in findings if finding.result != "not built"]
    parts = [
        "# Architectures",
        "This page compares every causal architecture of transformers, as a tiny random model, with plain "
        "transformers. It compares losses, gradients of the prompts, prompts after two steps, and greedy "
        "answers. The rows are shorter and longer than the model's windows, chunks and original contexts. "
        "The package must compute an architecture exactly, or refuse it by name when the model is loaded.",
        "```\nmake architectures\n```",
        f"transformers {__version__}, float32; {len(built)} of {len(findings)} architectures and variants "
        f'were built: {counts(findings)}. "Difference" is the largest relative difference of all compared '
        f"quantities; up to {EXACT:.0e} counts as exact. The fast paths are `fused` and `packed`: one pass "
        "for the rows of all clients. The slow paths are `eager` (padded batches) and `single` (one row at "
        "a time).",
    ]
    for kind in KINDS:
        chosen = [finding for finding in findings if kind_of(finding) == kind]
        if chosen:
            parts += [f"## {kind[0].upper()}{kind[1:]}", markdown([cells(finding) for finding in chosen])]
    return "\n\n".join(parts) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown without empty columns and without the result."""
    used = [number for number in range(len(HEADER)) if number != 1 and any(row[number] for row in rows)]
    escaped = [[row[number].replace("|", "\\|").replace("<", "&lt;") for number in used] for row in rows]
    heads = [HEADER[number] for number in used]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(used), *escaped])


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine all architectures, or those of `--only`; exit with status 1 if one is wrong."""
    parser = argparse.ArgumentParser(description="All causal architectures, compared with transformers.")
    parser.add_argument("--only", action="append", metavar="NAME", help="one architecture; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, rows and prompts (default 0)")
    parser.add_argument("--out", type=Path, help="file for the table in Markdown")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.only or ()) - set(names()))
    if unknown:
        parser.error(f"--only {unknown[0]}: unknown. Known: {', '.join(names())}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    findings = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDPROFIT_CACHE"] = cache
        for name in args.only or names():
            begin = time.perf_counter()
            findings.append(examine(name, args.seed))
            print(*cells(findings[-1]), f"{time.perf_counter() - begin:.1f} s", sep="  ", file=sys.stderr)
    show(findings)
    if args.out:
        write_text(args.out, page(findings))
    if any(finding.result in ("WRONG", "TRACEBACK") for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
