"""The report of a complete run: the tables on the terminal, the picture and a page beside the results."""

from pathlib import Path
from typing import Any

from rich.console import Console

from fedprofit.files import read_json, write_text
from fedprofit.report.table import EXPLANATION, markdown_table, metrics_of, terminal_table
from fedprofit.study.folder import RunFolder, open_folder


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Read a run's summary; UserError if it is damaged."""
    return read_json(
        folder.summary,
        f"Delete it and go on with the run: fedprofit run {folder.path}/config.yaml --out {folder.path} "
        "--resume",
    )


def write_report(path: Path, console: Console) -> None:
    """Print the tables of the run in `path`, and write its picture and table.md beside its results."""
    from fedprofit.report.figure import save_tradeoff

    folder = open_folder(path)
    summary = read_summary(folder)
    metrics = metrics_of(summary)
    # Exact match says nearly what ROUGE-L says: it stands in table.md, and the terminal stays readable.
    for metric in [metric for metric in metrics if metric != "exact_match"] or metrics:
        console.print(terminal_table(summary, metric))
    console.print(EXPLANATION, style="dim", highlight=False)
    pages = [markdown_table(summary, metric) for metric in metrics]
    write_text(path / "table.md", "\n\n".join([*pages, EXPLANATION]) + "\n")
    pictures = save_tradeoff(summary, path)
    files = {"run": path, "tables": path / "table.md", "picture": pictures[0], "results": folder.results}
    for title, file in files.items():
        console.print(f"{title:8} {file}", soft_wrap=True, highlight=False)
