"""Tables of a study's fronts, knees and curves: one metric on the terminal, all metrics in fronts.md."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedprofit.analyze.fronts import Area, Front, Knee, areas, fronts
from fedprofit.analyze.tables import open_tables
from fedprofit.core.files import write_text
from fedprofit.evaluate.metric import metric_of
from fedprofit.report.notes import omitted_metrics, print_notes, scoring_notes
from fedprofit.report.table import format_interval, format_score, markdown_table

FRONT_COLUMNS = ("axes", "algorithm", "settings", "volume", "more")
FRONT_EXPLANATION = (
    "settings: number of the algorithm's settings on its Pareto front. volume: the area that they dominate "
    "above the base model's scores. more: difference in volume to the grid cell's first algorithm, over the "
    "settings that both have, paired by client. 95% intervals in brackets."
)
KNEE_COLUMNS = ("axes", "algorithm", "knee", "local", "others", "worst")
KNEE_EXPLANATION = (
    "knee: the setting on a front farthest beyond the line between its ends, if any, with its scores. "
    "others: the global score where each client has all tasks. worst: mean forgetting "
    "at the knee of the tenth of the clients that forget most. Knees are read from the test "
    "clients, so do not select settings by them."
)
AREA_COLUMNS = ("axes", "algorithm", "setting", "steps", "area")
AREA_EXPLANATION = (
    "area: area under a setting's trade-off curve over its steps, above and to the right of the base model's "
    "scores. 95% interval in brackets."
)


def write_fronts(path: Path, console: Console) -> None:
    """Print a study's fronts and knees by its first metric; write fronts, knees and curves to fronts.md."""
    tables = open_tables(path)
    axes, table, metrics = tables.axes, tables.results, tables.metrics
    pages = []
    for metric in metrics:
        found = list(fronts(table, axes, metric))
        rows = [_front_cells(one) for one in found]
        knees = [_knee_cells(one, one.knee, metric) for one in found if one.knee is not None]
        for title, columns, cells, explanation in (
            ("Fronts", FRONT_COLUMNS, rows, FRONT_EXPLANATION),
            ("Knees", KNEE_COLUMNS, knees, KNEE_EXPLANATION),
        ):
            if not cells:
                continue
            pages.append(markdown_table(f"{title}: {metric_of(metric).heading}", columns, cells))
            if metric == metrics[0]:
                console.print(_terminal_table(f"{title}: {metric_of(metric).heading}", columns, cells))
                console.print(explanation, style="dim", highlight=False)
    notes = scoring_notes(tables)
    print_notes(console, *notes, *omitted_metrics(metrics[1:], "fronts.md"))
    for metric in metrics:
        curves = [_area_cells(one) for one in areas(table, axes, metric)]
        pages.append(markdown_table(f"Curves: {metric_of(metric).heading}", AREA_COLUMNS, curves))
    explanations = [FRONT_EXPLANATION, KNEE_EXPLANATION, AREA_EXPLANATION, " ".join(notes)]
    write_text(path / "fronts.md", "\n\n".join(filter(None, [*pages, *explanations])) + "\n")


def _terminal_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        right = name in ("settings", "local", "others", "worst")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _front_cells(one: Front) -> list[str]:
    more = "-" if one.more is None else f"{one.more}"
    return [_cell_name(one), one.algorithm, str(one.settings), f"{one.hypervolume:.3g}", more]


def _knee_cells(one: Front, knee: Knee, metric: str) -> list[str]:
    setting = knee.setting.removeprefix(f"{one.algorithm}, ")
    return [
        _cell_name(one), one.algorithm, setting,
        *(format_score(score, metric) for score in (knee.local, knee.kept)),
        format_interval(knee.worst.value, knee.worst.low, knee.worst.high, metric),
    ]  # fmt: skip


def _area_cells(one: Area) -> list[str]:
    return [_cell_name(one), one.algorithm, one.setting, str(one.steps), f"{one.area:.3g}"]


def _cell_name(one: Front | Area) -> str:
    return ", ".join(one.axes.values()) or "-"
