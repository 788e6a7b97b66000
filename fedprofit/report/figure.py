"""The trade-off as a figure: local over retained score, with curves along the steps."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedprofit.analyze.facts import TUNING_RATE
from fedprofit.core.files import write_figure
from fedprofit.evaluate.metric import main_ones, metric_of
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.results import GLOBAL, OTHERS
from fedprofit.report.notes import omitted_metrics
from fedprofit.report.overview import MAJORITY, GridCell
from fedprofit.report.table import Means

# Okabe and Ito's palette, distinguishable with common color vision deficiencies.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASELINES = {
    "base": ("*", "base model"),
    "local": ("P", "local only"),
    "central": ("X", "central"),
    "in_context": ("p", "in context"),
}
AXIS_LABELS = {
    OTHERS: "others: on other clients' tasks",
    GLOBAL: "global: on all test clients' pool",
}
INLINE_DPI = 110  # in notebooks
ENTRY_WIDTH = 3.6  # maximum width of a legend entry, inches


class Picture(Figure):
    """A figure that notebooks show inline without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=INLINE_DPI)
        return buffer.getvalue()


def tradeoff_figure(title: str, model: str, cells: Sequence[GridCell]) -> Figure:
    """Draw a panel for each main metric and grid cell. Up and to the right is better in all panels.

    Curves begin at the federated prompt (large open marker) and follow the personalization steps. Small
    hollow markers are interpolations, labeled with their alpha. All grid cells share a metric's axes. The
    title names metrics without a panel.
    """
    scored = {row["metric"] for cell in cells for row in cell.rows if row["local"] is not None}
    metrics, others = main_ones(scored or [LOSS.name])
    is_single = len(cells) == 1  # then panels are metrics from left to right, else grid cells
    rows, columns = (1, len(metrics)) if is_single else (len(metrics), len(cells))
    figure = Picture(figsize=(5.6 * columns, 0.8 + 4.6 * rows), layout="constrained")
    shared: Literal["row", "none"] = "none" if is_single else "row"
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    panels = [(metric, cell) for metric in metrics for cell in cells]
    styles = _styles([row for cell in cells for row in cell.rows])
    for ax, (metric, cell) in zip(axes, panels, strict=True):
        _draw_panel(ax, cell.rows_by(metric), styles)
        facts = metric_of(metric)
        ax.xaxis.set_inverted(facts.lower_is_better)
        ax.yaxis.set_inverted(facts.lower_is_better)
        name = facts.named + " (axes inverted)" * facts.lower_is_better
        ax.set_title(", ".join(filter(None, [cell.title, name])), loc="left", fontsize=11)
        ax.set_xlabel(AXIS_LABELS[cell.robustness])
        if is_single or cell is cells[0]:
            ax.set_ylabel("local: on the client's own test set")
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    _draw_legend(figure, any(_interpolated(cell.rows) for cell in cells))
    heterogeneity = ", ".join(f"{cell.heterogeneity:.2f}" for cell in cells)
    clients = ", ".join(f"{cell.clients}" + f" of {cell.seeds} seeds" * (cell.seeds > 1) for cell in cells)
    figure.suptitle(
        f"{title}: what personalization gains locally and loses elsewhere\n"
        f"{model}; test clients {clients}; heterogeneity {heterogeneity}"
        + "".join(f"\n{note}" for note in omitted_metrics(others, "table.md")),
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _styles(rows: list[Means]) -> dict[str, tuple[str, dict[str, str]]]:
    """Assign a color to each algorithm and a marker to each of its settings, equal in all panels."""
    settings: dict[str, list[str]] = {}
    for row in rows:
        if row["algorithm"]:
            names = settings.setdefault(row["algorithm"], [])
            if row["condition"] == "personalized" and row["setting"] not in names:
                names.append(row["setting"])
    return {
        algorithm: (color, dict(zip(names, cycle(MARKERS), strict=False)))
        for (algorithm, names), color in zip(settings.items(), cycle(COLORS), strict=False)
    }


def _draw_legend(figure: Figure, interpolated: bool) -> None:
    """Draw one legend below the panels, with each label once."""
    handles: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if interpolated:
        hollow = Line2D([], [], ls="", marker="o", markersize=5, fillstyle="none", color="#555555")
        handles["small, hollow: interpolated, with its alpha"] = hollow
    columns = max(1, int(figure.get_figwidth() / ENTRY_WIDTH))
    style = {"ncols": columns, "fontsize": 8.5, "frameon": False, "handlelength": 3}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", **style)


def _draw_panel(ax: Axes, rows: list[Means], styles: Mapping[str, tuple[str, dict[str, str]]]) -> None:
    if rows:
        anchor = rows[0]["kept"]  # a point of the panel: the axes expand to include it
        ax.axline((anchor, anchor), slope=1, color="#999999", ls=":", lw=1, label="equal scores", zorder=1)
    for row in rows:
        if row["condition"] == MAJORITY:  # what is not above and to the right has learned nothing
            style: dict[str, Any] = {"color": "#999999", "lw": 1, "ls": "-.", "zorder": 1}
            ax.axhline(row["local"], label="majority label", **style)
            if row["kept"] is not None:
                ax.axvline(row["kept"], **style)
    for name in dict.fromkeys(row["algorithm"] for row in rows if row["algorithm"]):
        color, markers = styles[name]
        own = [row for row in rows if row["algorithm"] == name]
        start = next(row for row in own if row["condition"] == "federated" and row["setting"] == "last")
        ax.scatter(
            start["kept"],
            start["local"],
            s=150,
            facecolors="white",
            edgecolors=color,
            linewidths=2,
            zorder=4,
            label=f"{name}, federated",
        )
        for setting in dict.fromkeys(row["setting"] for row in own if row["condition"] == "personalized"):
            _draw_curve(ax, own, setting, color, markers[setting])
    for condition, (marker, text) in BASELINES.items():
        found = [row for row in rows if row["condition"] == condition]
        if found:
            row = max(found, key=lambda r: r["step"] or 0)
            ax.scatter(row["kept"], row["local"], s=110, marker=marker, color="#555555", zorder=4, label=text)


def _draw_curve(ax: Axes, own: list[Means], setting: str, color: str, marker: str) -> None:
    tuned = [row for row in own if row["condition"] == "personalized" and row["setting"] == setting]
    start = next(r for r in own if r["condition"] == "federated" and r["setting"] == tuned[0]["start"])
    # A best step without a number precedes the last step.
    points = sorted(
        (row for row in tuned if row["curve"]), key=lambda row: (row["step"] is not None, row["step"] or 0)
    )
    mixed = _interpolated(tuned)
    value = points[0][TUNING_RATE]
    # The names of grid entries already contain their rate.
    rate = "" if value is None or f"rate{value:g}" in setting else f" (rate {value:g})"
    ax.plot(
        [row["kept"] for row in [start, *points]],
        [row["local"] for row in [start, *points]],
        color=color,
        marker=marker,
        markersize=6.5,
        markevery=slice(1, None),
        linewidth=1.8,
        linestyle="-" if marker == MARKERS[0] else "--",
        zorder=3,
        label=f"{points[0]['algorithm']}, {setting}{rate}",
    )
    ax.scatter(
        [row["kept"] for row in mixed],
        [row["local"] for row in mixed],
        marker=marker,
        s=34,
        facecolors="none",
        edgecolors=color,
        alpha=0.6,
        zorder=2,
    )
    for row in mixed:
        text, point = f"{row['alpha']:g}", (row["kept"], row["local"])
        ax.annotate(text, point, (4, 3), textcoords="offset points", color=color, fontsize=7, zorder=2)


def _interpolated(rows: list[Means]) -> list[Means]:
    """Return the personalized prompts that are interpolated with the federated one."""
    return [row for row in rows if row["condition"] == "personalized" and row["alpha"] != 1.0]


def save_tradeoff(figure: Figure, folder: Path) -> list[Path]:
    """Write tradeoff.png, .svg and .pdf to a folder; return their paths."""
    paths = [folder / f"tradeoff.{kind}" for kind in ("png", "svg", "pdf")]
    for path in paths:
        write_figure(path, figure, dpi=160)
    return paths
