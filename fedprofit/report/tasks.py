"""The table of `fedprofit tasks`: on the terminal, as Markdown and as Parquet."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedprofit.core.errors import UserError
from fedprofit.core.files import write_text
from fedprofit.evaluate.results import write_frame
from fedprofit.report.table import markdown_table
from fedprofit.studies.selection import Selection

COLUMNS = ("task", "majority", "copy_input", "base", "trained", "skill", "enters")


def write_selection(found: Selection, out: Path, console: Console) -> None:
    """Print the table of tasks, and write tasks.md and tasks.parquet to a folder.

    Raises UserError if no task enters.
    """
    rows = [_cells(row) for row in found.table.to_dicts()]
    table = Table(title="ROUGE-L by task", title_justify="left", title_style="bold", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name.replace("_input", ""), justify="left" if name == "task" else "right")
    for *cells, enters in rows:
        table.add_row(*cells, Text(enters, "green" if enters == "yes" else "dim"))
    console.print(table)
    optimizer = found.trained.client
    rate = getattr(optimizer, "rate", float("nan"))
    explanation = (
        f"{len(found.tasks)} of {len(rows)} tasks enter: the trained prompt exceeds the most frequent label "
        f"and the copied input by at least {found.margin:g} points (skill), on the task's validation rows. "
        f"One prompt per task: {found.trained.steps} steps of {optimizer.kind} at rate {rate:g}."
    )
    console.print(explanation, style="dim", highlight=False)
    write_text(out / "tasks.md", f"{markdown_table('ROUGE-L by task', COLUMNS, rows, 6)}\n\n{explanation}\n")
    write_frame(out / "tasks.parquet", found.table)
    console.print(f"tasks    {out / 'tasks.md'}", soft_wrap=True, highlight=False)
    if not found.tasks:
        raise UserError(
            f"{out / 'tasks.md'}: no task enters, so a study of them would show nothing. Take other tasks, a "
            "larger model, or more steps in baselines.central."
        )


def _cells(row: dict[str, object]) -> list[str]:
    numbers = [f"{row[name]:.1f}" for name in COLUMNS[1:-1]]
    return [str(row["task"]), *numbers, "yes" if row["enters"] else "no"]
