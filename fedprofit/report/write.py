"""Write the report of a run or study: tables on the terminal, and files next to the results."""

from pathlib import Path

import polars as pl
from rich.console import Console

from fedprofit.analyze.tables import Tables, open_tables
from fedprofit.core.files import write_text, write_with
from fedprofit.evaluate.metric import main_ones
from fedprofit.evaluate.results import axis_column
from fedprofit.report.examples import print_worst, worst_examples, worst_markdown
from fedprofit.report.notes import omitted_metrics, print_notes, scoring_notes
from fedprofit.report.overview import GridCell, grid_cells
from fedprofit.report.table import (
    EXPLANATION,
    FILE_EXPLANATION,
    SERVING_COLUMNS,
    escape_formulas,
    escape_latex,
    file_table,
    latex_table,
    markdown_table,
    serving_rows,
    serving_table,
    terminal_table,
)


def write_report(path: str | Path, console: Console | None = None) -> None:
    """Write the report of the run or study in `path` next to its results, and print its tables to a console.

    Writes report.html, tradeoff.png, .svg and .pdf, table.md, .tex and .csv. Also writes worst.md if examples
    were recorded, and fronts.md for a study.
    """
    from fedprofit.report.figure import save_tradeoff, tradeoff_figure
    from fedprofit.report.fronts import write_fronts
    from fedprofit.report.page import write_page

    path, console = Path(path), console or Console(quiet=True)
    tables = open_tables(path)
    cells = grid_cells(tables)
    if tables.is_study:
        write_fronts(path, console)
    else:
        shown, others = main_ones(tables.metrics)
        for metric in shown:
            console.print(terminal_table(cells[0].rows, metric))
        print_notes(console, EXPLANATION)
        print_notes(console, *scoring_notes(tables), *omitted_metrics(others, "table.md"))
    if any(one["predictor"] != "single" for one in tables.serving):
        console.print(serving_table(tables.serving))
    worst = worst_examples(tables)
    if worst:
        print_worst(console, worst)
        write_text(path / "worst.md", worst_markdown(worst))
    _write_tables(tables, cells)
    pictures = save_tradeoff(tradeoff_figure(tables.name, tables.model, cells), path)
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


def _write_tables(tables: Tables, cells: list[GridCell]) -> None:
    for name, write, escape in (("table.md", markdown_table, str), ("table.tex", latex_table, escape_latex)):
        pages = [
            file_table(cell.rows, metric, cell.title, write) for cell in cells for metric in tables.metrics
        ]
        if tables.serving:
            pages.append(write("Cost of serving", SERVING_COLUMNS, serving_rows(tables.serving), numbers=3))
        notes = [FILE_EXPLANATION, " ".join(scoring_notes(tables))]
        write_text(tables.path / name, "\n\n".join([*pages, *map(escape, filter(None, notes))]) + "\n")
    rows = [
        {**{axis_column(axis): value for axis, value in cell.axes.items()}, **row}
        for cell in cells
        for row in cell.rows
    ]
    table = escape_formulas(pl.DataFrame(rows, infer_schema_length=None))
    write_with(tables.path / "table.csv", table.write_csv)
