"""The report of a run or study: tables on the terminal; a page, tables and pictures beside the results."""

from pathlib import Path

import polars as pl
from rich.console import Console

from fedprofit.analyze.tables import Tables, open_tables
from fedprofit.core.files import write_text, write_with
from fedprofit.evaluate.metric import main_ones
from fedprofit.evaluate.results import axis_column
from fedprofit.report.examples import print_worst, worst_of, written_worst
from fedprofit.report.notes import left_out, print_notes, scoring_notes
from fedprofit.report.overview import Place, places
from fedprofit.report.table import (
    EXPLANATION,
    WRITTEN_EXPLANATION,
    in_latex,
    in_spreadsheet,
    latex,
    markdown,
    terminal_table,
    written_table,
)


def write_report(path: str | Path, console: Console | None = None) -> None:
    """Write the report of the run or study in `path` beside its results, and print its tables to a console.

    Writes report.html, tradeoff.png, .svg and .pdf, table.md, .tex and .csv; worst.md where examples are
    recorded; of a study fronts.md too.
    """
    from fedprofit.report.figure import save_tradeoff, tradeoff_figure
    from fedprofit.report.fronts import write_fronts
    from fedprofit.report.page import write_page

    path, console = Path(path), console or Console(quiet=True)
    tables = open_tables(path)
    found = places(tables)
    if tables.is_study:
        write_fronts(path, console)
    else:
        shown, others = main_ones(tables.metrics)
        for metric in shown:
            console.print(terminal_table(found[0].rows, metric))
        print_notes(console, EXPLANATION)
        print_notes(console, *scoring_notes(tables), *left_out(others, "table.md"))
    worst = worst_of(tables)
    if worst:
        print_worst(console, worst)
        write_text(path / "worst.md", written_worst(worst))
    _write_tables(tables, found)
    pictures = save_tradeoff(tradeoff_figure(tables.name, tables.model, found), path)
    write_page(tables, path / "report.html")
    kind = "study" if tables.is_study else "run"
    files = {
        kind: path,
        "page": path / "report.html",
        "tables": path / "table.md",
        **({"worst": path / "worst.md"} if worst else {}),
        "picture": pictures[0],
        "results": path / "results.parquet",
    }
    for title, file in files.items():
        console.print(f"{title:8} {file}", soft_wrap=True, highlight=False)


def _write_tables(tables: Tables, found: list[Place]) -> None:
    for name, write, text in (("table.md", markdown, str), ("table.tex", latex, in_latex)):
        pages = [
            written_table(place.rows, metric, place.title, write)
            for place in found
            for metric in tables.metrics
        ]
        notes = [WRITTEN_EXPLANATION, " ".join(scoring_notes(tables))]
        write_text(tables.path / name, "\n\n".join([*pages, *map(text, filter(None, notes))]) + "\n")
    rows = [
        {**{axis_column(axis): value for axis, value in place.axes.items()}, **row}
        for place in found
        for row in place.rows
    ]
    table = in_spreadsheet(pl.DataFrame(rows, infer_schema_length=None))
    write_with(tables.path / "table.csv", table.write_csv)
