"""Which architectures of transformers this package computes exactly, which it refuses, and by which path.

    python benchmarks/architectures.py --out docs/architectures.md

Every causal architecture is built as a tiny random model (`tiny_architectures.py`), saved, and loaded as a
user's folder is. What the engine computes is then compared with a second copy that plain transformers
loads: losses, the gradient of the prompts, the prompts after two steps, and greedy answers.
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
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, __version__

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from tiny_architectures import names, tiny_architecture, tiny_config

from fedprofit.backbone import load
from fedprofit.backbone.convert import quiet_transformers
from fedprofit.backbone.engine import Engine, make_engine
from fedprofit.backbone.forward import Row
from fedprofit.backbone.workers import shared_workers
from fedprofit.errors import UserError
from fedprofit.files import write_text
from fedprofit.types import Example

from tiny import tiny_tokenizer  # isort: skip

REACH = 80  # tokens of the longest row, with its answer
PROMPT, NEW, SHARE = 3, 8, 0.1  # vectors of a prompt; tokens of an answer; how far a step moves the prompts
WORDS = 300  # ids that texts are drawn from: below the control tokens of models that read pictures
EXACT = 1e-4  # largest relative difference, in float32

# Rows by client: tokens of the shared prefix, of the source, of the target. Windows, chunks and original
# contexts of the tiny models are 16, 24 and 32 tokens long.
ROWS = {
    0: [(5, 3, 3), (5, 9, 1), (27, 2, 4), (27, 6, 2), (27, 30, 3), (0, 10, 5)],
    1: [(5, 4, 2), (18, 2, 3), (18, 9, 1), (0, 12, 3), (0, 40, 4)],
}
FAST = ("fused", "packed")


@dataclass(frozen=True)
class Finding:
    """What came of one architecture."""

    name: str
    result: str  # "exact", "refused", "not built", "WRONG" or "TRACEBACK"
    path: str = ""  # of `fedprofit.backbone.paths`
    difference: float = float("nan")  # the largest, relative
    why: str = ""  # why refused, not built, or not computed by a faster path


def examine(name: str, seed: int = 0) -> Finding:
    """Build one architecture, load it as a user does, and compare it with plain transformers."""
    try:
        with quiet_transformers():
            model = tiny_architecture(name, seed)
    except Exception as error:
        # Each architecture has its own errors; all mean that its configuration was not made small.
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
    """Forget the models that are kept in memory when the block ends."""
    try:
        yield
    finally:
        load._load.cache_clear()
        shared_workers.cache_clear()
        gc.collect()


def save(model: Any, name: str, folder: str) -> None:
    """Save a model and the tokenizer. An encoder-decoder's configuration is that of its whole checkpoint."""
    model.save_pretrained(folder)
    whole = tiny_config(name)
    if whole.is_encoder_decoder and not getattr(whole, "is_decoder", False):
        whole.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def draw_rows(seed: int) -> list[Row]:
    """Draw the rows of `ROWS`; a client's rows with prefixes of one length share the prefix."""
    draw = np.random.default_rng(seed)

    def tokens(count: int) -> Any:
        return draw.integers(3, WORDS, count).astype(np.int32)

    found = []
    for owner, sizes in ROWS.items():
        prefixes = {length: tokens(length) for length, _, _ in sizes}
        for prefix, source, target in sizes:
            example = Example(prefixes[prefix], tokens(source), tokens(target), "", ())
            found.append(Row(owner, example))
    return found


def longest(row: Row) -> int:
    """Return how many tokens a row reaches, with its prompt, and its target or an answer."""
    example = row.example
    return PROMPT + len(example.prefix) + len(example.source) + max(len(example.target), NEW)


def compare(engine: Engine, folder: str, seed: int = 0) -> dict[str, float]:
    """Return the largest relative difference of each quantity from a second, untouched model's."""
    with quiet_transformers():
        oracle = Oracle(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    context = engine.backbone.context_length or REACH
    rows = [row for row in draw_rows(seed) if longest(row) <= context]
    start = oracle.embed(np.random.default_rng(seed + 1).integers(3, WORDS, 2 * PROMPT)).reshape(2, PROMPT, -1)
    start = start + start.std() * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    weights = torch.tensor([1 / len(row.example.target) for row in rows])

    losses, slopes = engine.gradients(start, rows, weights)
    true_losses, true_slopes = oracle.gradients(start, rows, weights)
    rate = SHARE * float(start.norm() / true_slopes.norm())
    halves = [(rows[part], weights[part]) for part in (slice(0, None, 2), slice(1, None, 2))]
    moved = true = start
    for half, shares in halves:
        moved = moved - rate * engine.gradients(moved, half, shares)[1]
        true = true - rate * oracle.gradients(true, half, shares)[1]
    scored, answers = engine.answer(moved, rows, NEW)
    nothing = start[:, :0]
    return {
        "losses": apart(losses, true_losses),
        "losses without prompt": apart(engine.score(nothing, rows), oracle.losses_by_ids(rows)),
        "losses with answers": apart(scored, oracle.gradients(true, rows, weights)[0]),
        "gradients": far(slopes, true_slopes),
        "prompts after two steps": far(moved, true),
        "answers": max(
            oracle.short_of_greedy(true, row, answer, engine.backbone.eos_token_ids)
            for row, answer in zip(rows, answers, strict=True)
        ),
    }


def apart(found: Tensor, true: Tensor) -> float:
    """Return the largest relative difference of losses."""
    return float(((found - true).abs() / true.abs()).max())


def far(found: Tensor, true: Tensor) -> float:
    """Return the relative distance of two tensors."""
    return float((found - true).norm() / true.norm())


class Oracle:
    """Plain transformers, one row at a time: no mask, no positions, nothing kept between tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    def embed(self, ids: Any) -> Tensor:
        """Return token embeddings `[tokens, width]`."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.long))
        return embedded

    def logits(self, prompt: Tensor, ids: Any) -> Tensor:
        """Return the logits `[length + tokens, vocabulary]` of a prompt and the tokens after it."""
        inputs = torch.cat([prompt, self.embed(ids)]).unsqueeze(0)
        logits: Tensor = self.model(inputs_embeds=inputs, use_cache=False).logits[0]
        return logits

    def loss(self, prompt: Tensor, example: Example) -> Tensor:
        """Return the negative log-likelihood of a target, summed over its tokens."""
        return loss_of(self.logits(prompt, read(example)), example)

    def gradients(self, prompts: Tensor, rows: Sequence[Row], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows' losses, and the gradient of their weighted sum by the prompts."""
        leaf = prompts.detach().requires_grad_()
        losses = torch.stack([self.loss(leaf[row.owner], row.example) for row in rows])
        (slopes,) = torch.autograd.grad((losses * weights).sum(), leaf)
        return losses.detach(), slopes

    def losses_by_ids(self, rows: Sequence[Row]) -> Tensor:
        """Return the rows' losses without a prompt, from token ids instead of embeddings."""
        found = []
        for row in rows:
            ids = torch.as_tensor(read(row.example), dtype=torch.long).unsqueeze(0)
            with torch.no_grad():
                found.append(loss_of(self.model(input_ids=ids, use_cache=False).logits[0], row.example))
        return torch.stack(found)

    def short_of_greedy(self, prompts: Tensor, row: Row, answer: list[int], stop: list[int]) -> float:
        """Return by how much, relative, a token of an answer falls short of the best; 0 if none does."""
        text = [*row.example.prefix.tolist(), *row.example.source.tolist()]
        worst = 0.0
        ends = len(answer) < NEW
        for number in range(len(answer) + ends):
            with torch.no_grad():
                logits = self.logits(prompts[row.owner], text + answer[:number])[-1]
            chosen = logits[answer[number]] if number < len(answer) else logits[stop].max()
            if number < len(answer) and answer[number] in stop:
                return float("inf")
            worst = max(worst, float((logits.max() - chosen) / (1 + logits.max().abs())))
        return worst


def read(example: Example) -> Any:
    """Return what is read of an example: all but the last token of the target, which is only predicted."""
    return np.concatenate([example.prefix, example.source, example.target[:-1]])


def loss_of(logits: Tensor, example: Example) -> Tensor:
    """Return the summed negative log-likelihood of an example's target by the last logits."""
    target = torch.as_tensor(example.target, dtype=torch.long)
    return cross_entropy(logits[-len(target) :], target, reduction="sum")


def reason(error: UserError, folder: str) -> str:
    """Return the message of a refusal without the name of the temporary folder and the remedy."""
    text = re.sub(r"^\W*(The )?backbone ", "", str(error).replace(repr(folder), "").replace(folder, ""))
    text = re.sub(r"^\W+", "", text)
    return re.split(r"\. (?=Choose|Only|Save|Set|A soft prompt|The files)", text)[0].rstrip(".")


def why_slow(engine: Engine) -> str:
    """Return why the fast paths were not taken; nothing where one was."""
    if engine.attention in FAST:
        return ""
    found = re.findall(r"not (packed|eager): (.*?)(?=; not |\)$)", engine.reason)
    return "; ".join(f"{path}: {why}" for path, why in found)


def first_line(error: BaseException) -> str:
    """Return an error's kind and its message's first lines, on one."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def kind_of(finding: Finding) -> str:
    """Return what a finding is counted as."""
    if finding.result != "exact":
        return finding.result
    return "exact, fast path" if finding.path in FAST else "exact, slow path"


KINDS = ("WRONG", "TRACEBACK", "exact, fast path", "exact, slow path", "refused", "not built")


def counts(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each kind, as a sentence's part."""
    numbers = {kind: sum(kind_of(finding) == kind for finding in findings) for kind in KINDS}
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items() if number or kind == "WRONG")


def cells(finding: Finding) -> list[str]:
    """Return a finding's row of the table."""
    difference = "" if np.isnan(finding.difference) else f"{finding.difference:.0e}"
    return [finding.name, finding.result, finding.path, difference, finding.why]


HEADER = ("architecture", "result", "path", "difference", "why")


def show(findings: Sequence[Finding]) -> None:
    """Print a table, 80 columns wide at most."""
    table = Table(*HEADER[:3], "diff.", "why")
    for finding in findings:
        table.add_row(*cells(finding))
    Console(width=80).print(table, counts(findings), sep="\n")


def page(findings: Sequence[Finding]) -> str:
    """Return the page of the documentation."""
    built = [finding for finding in findings if finding.result != "not built"]
    parts = [
        "# Architectures",
        "Every causal architecture of transformers, as a tiny random model, is compared with plain "
        "transformers: losses, gradients of the prompts, prompts after two steps, and greedy answers, on "
        "rows shorter and longer than the model's windows, chunks and original contexts. The package "
        "computes an architecture exactly, or refuses it by name when the model is loaded.",
        "```\nmake architectures\n```",
        f"transformers {__version__}, float32; {len(built)} of {len(findings)} architectures and variants "
        f"were built: {counts(findings)}. \"Difference\" is the largest relative one of all that is "
        f"compared; up to {EXACT:.0e} counts as exact. The fast paths are `fused` and `packed`: the rows of "
        "all clients in one pass. The slow paths are `eager` (padded batches) and `single` (one row at a "
        "time).",
    ]
    for kind in KINDS:
        chosen = [finding for finding in findings if kind_of(finding) == kind]
        if chosen:
            parts += [f"## {kind[0].upper()}{kind[1:]}", markdown([cells(finding) for finding in chosen])]
    return "\n\n".join(parts) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown without the columns that are empty, and without the result."""
    used = [number for number in range(len(HEADER)) if number != 1 and any(row[number] for row in rows)]
    escaped = [[row[number].replace("|", "\\|").replace("<", "&lt;") for number in used] for row in rows]
    heads = [HEADER[number] for number in used]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(used), *escaped])


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine all architectures, or those that are named; exit with status 1 if one is wrong."""
    parser = argparse.ArgumentParser(description="All causal architectures, compared with transformers.")
    parser.add_argument("--only", action="append", metavar="NAME", help="one architecture; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of weights, rows and prompts (default 0)")
    parser.add_argument("--out", type=Path, help="file for the table in Markdown")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.only or ()) - set(names()))
    if unknown:
        parser.error(f"--only {unknown[0]}: unknown. Known: {', '.join(names())}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
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
