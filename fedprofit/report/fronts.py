"""What a study's fronts and curves are worth: on the terminal by its first metric, in fronts.md by all."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedprofit.analyze.fronts import Area, Front, Knee, areas, fronts
from fedprofit.analyze.tables import open_tables
from fedprofit.core.files import write_text
from fedprofit.evaluate.metric import metric_of
from fedprofit.report.notes import left_out, print_notes, scoring_notes
from fedprofit.report.table import bounded, cell, markdown

FRONT = ("axes", "algorithm", "settings", "volume", "more")
FRONT_EXPLANATION = (
    "settings: that no other of the algorithm's beats on both axes. volume: the area that they dominate over "
    "the base model's scores; more: than that of the place's first algorithm, over the settings that both "
    "have, client by client. In brackets, 95% intervals."
)
KNEE = ("axes", "algorithm", "knee", "local", "global", "worst")
KNEE_EXPLANATION = (
    "knee: of the settings on a front the one farthest beyond the line between its ends, if one lies there, "
    "with its scores; worst: what the tenth of the clients that forget most lose there. Read off the test "
    "clients: no way to choose."
)
AREA = ("axes", "algorithm", "setting", "steps", "area")
AREA_EXPLANATION = (
    "area: under a setting's trade-off curve along its steps, above and to the right of the base model's "
    "scores. In brackets, its 95% interval."
)


def write_fronts(path: Path, console: Console) -> None:
    """Print a study's fronts and knees by its first metric; write all metrics', and curves, to fronts.md."""
    tables = open_tables(path)
    axes, table, metrics = tables.axes, tables.results, tables.metrics
    pages = []
    for metric in metrics:
        found = list(fronts(table, axes, metric))
        rows = [_front_cells(one) for one in found]
        knees = [_knee_cells(one, one.knee, metric) for one in found if one.knee is not None]
        for title, columns, cells, explained in (
            ("Fronts", FRONT, rows, FRONT_EXPLANATION),
            ("Knees", KNEE, knees, KNEE_EXPLANATION),
        ):
            if not cells:
                continue
            pages.append(markdown(f"{title}: {metric_of(metric).heading}", columns, cells))
            if metric == metrics[0]:
                console.print(_terminal(f"{title}: {metric_of(metric).heading}", columns, cells))
                console.print(explained, style="dim", highlight=False)
    notes = scoring_notes(tables)
    print_notes(console, *notes, *left_out(metrics[1:], "fronts.md"))
    for metric in metrics:
        curves = [_area_cells(one) for one in areas(table, axes, metric)]
        pages.append(markdown(f"Curves: {metric_of(metric).heading}", AREA, curves))
    explanations = [FRONT_EXPLANATION, KNEE_EXPLANATION, AREA_EXPLANATION, " ".join(notes)]
    write_text(path / "fronts.md", "\n\n".join(filter(None, [*pages, *explanations])) + "\n")


def _terminal(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in titles:
        right = name in ("settings", "local", "global", "worst")
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def _front_cells(one: Front) -> list[str]:
    more = "-" if one.more is None else f"{one.more}"
    return [_place(one), one.algorithm, str(one.settings), f"{one.hypervolume:.3g}", more]


def _knee_cells(one: Front, knee: Knee, metric: str) -> list[str]:
    setting = knee.setting.removeprefix(f"{one.algorithm}, ")
    return [
        _place(one), one.algorithm, setting,
        *(cell(score, metric) for score in (knee.local, knee.kept)),
        bounded(knee.worst.value, knee.worst.low, knee.worst.high, metric),
    ]  # fmt: skip


def _area_cells(one: Area) -> list[str]:
    return [_place(one), one.algorithm, one.setting, str(one.steps), f"{one.area:.3g}"]


def _place(one: Front | Area) -> str:
    return ", ".join(one.axes.values()) or "-"
