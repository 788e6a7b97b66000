"""Output of study commands, on the terminal and in files: plan, outcome and claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit.analyze.claims import SAYS, caveats, check_claims
from fedprofit.analyze.comparison import Comparison
from fedprofit.analyze.tables import open_tables
from fedprofit.analyze.verdicts import Finding
from fedprofit.core.errors import UserError
from fedprofit.core.files import write_json, write_text
from fedprofit.data.federated import check_sources
from fedprofit.evaluate.metric import metric_of
from fedprofit.report.fronts import write_fronts
from fedprofit.report.notes import scoring_notes
from fedprofit.report.table import escape_markdown, markdown_table
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.libraries import load_libraries
from fedprofit.runs.progress import duration
from fedprofit.studies.admission import admit
from fedprofit.studies.ledger import StudyFolder, contains_study, done, missing, read_table
from fedprofit.studies.many import Progress
from fedprofit.studies.spec import describe, load_study
from fedprofit.studies.watch import share_left

VERDICT_COLORS = {"supported": "green", "contradicted": "red", "not shown": "yellow", "not tested": "dim"}


def show_plan(
    path: Path,
    overrides: Sequence[str],
    out: Path | None,
    workers: int,
    console: Console,
    only: Sequence[str] = (),
    yes: bool = False,
) -> None:
    """Print a study's runs, their states, and an estimate of the remaining time.

    Raises UserError if the runs do not fit the study's existing table.
    """
    study, runs = load_study(path, overrides, only, yes)
    folder = StudyFolder(out or Path("runs") / study.name)
    contains_study(folder, study)
    runs = admit(folder, study, runs)
    remaining = missing(folder, runs)
    table = Table(title=f"{study.name}: {len(runs)} runs", title_justify="left", pad_edge=False)
    for title in ("run", "axes", "state"):
        table.add_column(title, overflow="fold")
    for planned in runs:
        table.add_row(planned.key, describe(planned.axes), "to do" if planned in remaining else "done")
    console.print(table)
    if remaining:
        check_sources(planned.config.data for planned in remaining)
        load_libraries()
        from fedprofit.studies.estimate import study_seconds

        shares = [share_left(RunFolder(folder.run(planned.key))) for planned in remaining]
        seconds = study_seconds(remaining, workers, shares)
        console.print(f"about {duration(seconds)} with {workers} workers, measured on this machine")


def print_study(folder: StudyFolder, progress: Progress, console: Console) -> None:
    """Print the outcome of running a study."""
    rows = 0
    if folder.results.exists():
        rows = len(read_table(folder))
        write_fronts(folder.path, console)
    console.print(f"{len(done(folder))} runs in the table, {rows} rows; {len(progress.failed)} failed")
    files = {"study": folder.path, "results": folder.results, "rounds": folder.rounds}
    if progress.failed:
        files["failures"] = folder.failures
    for title, file in files.items():
        console.print(f"{title:8} {file}", soft_wrap=True, highlight=False)
    for command in ("report", "claims"):
        console.print(f"next     fedprofit {command} {folder.path}", soft_wrap=True, highlight=False)


def write_claims(path: Path, console: Console) -> None:
    """Check the paper's claims on a study's table; print them, and write claims.md and claims.json."""
    tables = open_tables(path)
    if not tables.is_study:
        raise UserError(f"{path}: is a run, but claims need a study. Give the folder of a study.")
    findings = {
        metric: check_claims(tables.results, tables.axes, metric, tables.validation)
        for metric in tables.metrics
    }
    for metric, found in findings.items():
        console.print(_claims_table(metric, found))
    console.print(_verdict_table(findings))
    console.print(
        "Effects: difference of the retained score (others; global where each client has all tasks) at the "
        "same local score, with 95% intervals: the widest over seeds and clients, over seeds and tasks, and "
        "over seeds. Verdicts are corrected for the number of claims by each metric (Holm).",
        style="dim",
        highlight=False,
    )
    notes = list(filter(None, (" ".join(scoring_notes(tables)), *caveats(tables))))
    for note in notes:
        console.print(note, style="dim", highlight=False)
    pages = [
        _verdict_markdown(findings),
        *map(escape_markdown, notes),
        *(page for metric, found in findings.items() for page in _claims_markdown(metric, found)),
    ]
    write_text(path / "claims.md", "\n\n".join(pages) + "\n")
    write_json(path / "claims.json", [_to_json(one) for found in findings.values() for one in found])
    console.print(f"claims   {path / 'claims.md'}", soft_wrap=True, highlight=False)


def _verdict_table(findings: Mapping[str, Sequence[Finding]]) -> Table:
    table = Table(title="Verdicts", title_justify="left", title_style="bold", pad_edge=False)
    for title in ("claim", *(metric_of(name).named for name in findings)):
        table.add_column(title, overflow="fold")
    for same in zip(*findings.values(), strict=True):
        table.add_row(same[0].claim, *(Text(one.verdict, VERDICT_COLORS[one.verdict]) for one in same))
    return table


def _verdict_markdown(findings: Mapping[str, Sequence[Finding]]) -> str:
    rows = [
        (f"{same[0].claim}: {SAYS[same[0].claim]}", *(one.verdict for one in same))
        for same in zip(*findings.values(), strict=True)
    ]
    return markdown_table("Verdicts", ("claim", *(metric_of(name).named for name in findings)), rows)


def _claims_table(metric: str, findings: Sequence[Finding]) -> Table:
    table = Table(title=metric_of(metric).heading, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("claim")
    table.add_column("verdict", no_wrap=True)
    table.add_column("comparison, effect [95% interval], sample size", overflow="fold")
    for one in findings:
        verdict = Text(one.verdict, VERDICT_COLORS[one.verdict])
        lines = [_with_power(each, metric) for each in one.comparisons]
        table.add_row(one.claim, verdict, "\n".join(lines) or one.reason)
    return table


def _with_power(one: Comparison, metric: str) -> str:
    """Describe a comparison; where no effect is shown, with the smallest effect that would have been."""
    if one.estimate.sign or one.estimate.detectable is None:
        return str(one)
    return f"{one}; detectable {one.estimate.detectable:.{metric_of(metric).digits + 1}f}"


EVIDENCE_COLUMNS = (
    "comparison", "pairs", "local scores", "steps", "effect", "clients", "tasks", "seeds", "p", "detectable",
)  # fmt: skip


def _claims_markdown(metric: str, findings: Sequence[Finding]) -> list[str]:
    """Return a table of verdicts, and for each claim the table of its evidence."""
    rows = [
        (one.claim, one.verdict, one.uncorrected, _probability(one.corrected), one.reason) for one in findings
    ]
    columns = ("claim", "verdict", "uncorrected", "corrected p", "why")
    pages = [markdown_table(metric_of(metric).heading, columns, rows)]
    for one in findings:
        found = [*one.comparisons, *one.beside]
        if found:
            evidence = [_evidence(each, metric, each in one.comparisons) for each in found]
            pages.append(
                markdown_table(f"{one.claim} by {metric_of(metric).named}", EVIDENCE_COLUMNS, evidence)
            )
    return pages


def _evidence(one: Comparison, metric: str, decides: bool) -> list[str]:
    """Return a comparison's row: effect, the intervals by what is resampled, p-value, detectable effect."""
    found, digits = one.estimate, metric_of(metric).digits + 1
    intervals = []
    for what in ("clients", "tasks", "seeds"):
        ends = found.interval_by(what)
        intervals.append("-" if ends is None else f"[{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]")
    levels = "-" if one.levels is None else " to ".join(f"{level:.{digits}f}" for level in one.levels)
    return [
        one.what + " (beside)" * (not decides),
        f"{one.compared} of {one.pairs}",
        levels,
        "-" if one.steps is None else f"{one.steps:.1f} times",
        f"{found:+.{digits}f}",
        *intervals,
        _probability(found.probability) if found.error is not None else "-",
        "-" if found.detectable is None else f"{found.detectable:.{digits}f}",
    ]


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _to_json(one: Finding) -> dict[str, object]:
    comparisons = [
        {
            "what": c.what,
            "decides": c in one.comparisons,
            "compared": c.compared,
            "pairs": c.pairs,
            "unstable_pairs": c.unstable,
            "pairs_by_their_ends": c.two_points,
            "pairs_left_out": c.left_out,
            "levels": c.levels,
            "steps": c.steps,
            **c.estimate.plain(),
            "probability": c.estimate.probability,
            "detectable": c.estimate.detectable,
        }
        for c in [*one.comparisons, *one.beside]
    ]
    kept = {key: value for key, value in vars(one).items() if key != "beside"}
    return {**kept, "says": SAYS[one.claim], "comparisons": comparisons}
