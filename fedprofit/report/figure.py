"""The trade-off as a picture: local score against global score, with curves along the steps."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedprofit.analyze.facts import TUNING_RATE
from fedprofit.core.files import write_figure
from fedprofit.evaluate.metric import main_ones, metric_of
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.report.notes import left_out
from fedprofit.report.overview import Place
from fedprofit.report.table import Means

# Okabe and Ito's palette: told apart with every common colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASELINES = {"base": ("*", "base model"), "local": ("P", "local only"), "central": ("X", "central")}
INLINE = 110  # dots per inch in a notebook
ENTRY = 3.6  # inches that an entry of the legend may take


class Picture(Figure):
    """A figure that a notebook shows inline, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=INLINE)
        return buffer.getvalue()


def tradeoff_figure(title: str, model: str, places: Sequence[Place]) -> Figure:
    """Draw a panel for each main metric, at every place; up and to the right is better in all.

    Curves begin at the federated prompt (large open marker), run along the personalization steps, and
    end at the last. Small hollow markers behind them are interpolations, each beside its alpha. All places
    share a metric's axes. The title names metrics without a panel.
    """
    scored = {row["metric"] for place in places for row in place.rows if row["local"] is not None}
    metrics, others = main_ones(scored or [LOSS.name])
    one = len(places) == 1  # then the metrics stand side by side, else the places
    rows, columns = (1, len(metrics)) if one else (len(metrics), len(places))
    figure = Picture(figsize=(5.6 * columns, 0.8 + 4.6 * rows), layout="constrained")
    shared: Literal["row", "none"] = "none" if one else "row"
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    panels = [(metric, place) for metric in metrics for place in places]
    looks = _looks([row for place in places for row in place.rows])
    for ax, (metric, place) in zip(axes, panels, strict=True):
        _draw_panel(ax, place.of(metric), looks)
        facts = metric_of(metric)
        ax.xaxis.set_inverted(facts.lower_is_better)
        ax.yaxis.set_inverted(facts.lower_is_better)
        name = facts.named + " (axes inverted)" * facts.lower_is_better
        ax.set_title(", ".join(filter(None, [place.title, name])), loc="left", fontsize=11)
        ax.set_xlabel("global: on all test clients' pool")
        if one or place is places[0]:
            ax.set_ylabel("local: on the client's own test set")
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    _draw_legend(figure, any(_mixed(place.rows) for place in places))
    spread = ", ".join(f"{place.heterogeneity:.2f}" for place in places)
    clients = ", ".join(
        f"{place.clients}" + f" of {place.seeds} seeds" * (place.seeds > 1) for place in places
    )
    figure.suptitle(
        f"{title}: what personalization gains locally and loses globally\n"
        f"{model}; test clients {clients}; heterogeneity {spread}"
        + "".join(f"\n{note}" for note in left_out(others, "table.md")),
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _looks(rows: list[Means]) -> dict[str, tuple[str, dict[str, str]]]:
    """Give each algorithm its color and each of its settings a marker, the same in all panels."""
    settings: dict[str, list[str]] = {}
    for row in rows:
        if row["algorithm"]:
            own = settings.setdefault(row["algorithm"], [])
            if row["condition"] == "personalized" and row["setting"] not in own:
                own.append(row["setting"])
    return {
        name: (color, dict(zip(own, cycle(MARKERS), strict=False)))
        for (name, own), color in zip(settings.items(), cycle(COLORS), strict=False)
    }


def _draw_legend(figure: Figure, interpolated: bool) -> None:
    """Name below the panels what any of them shows, once."""
    handles: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if interpolated:
        hollow = Line2D([], [], ls="", marker="o", markersize=5, fillstyle="none", color="#555555")
        handles["small, hollow: interpolated, with its alpha"] = hollow
    columns = max(1, int(figure.get_figwidth() / ENTRY))
    style = {"ncols": columns, "fontsize": 8.5, "frameon": False, "handlelength": 3}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", **style)


def _draw_panel(ax: Axes, rows: list[Means], looks: Mapping[str, tuple[str, dict[str, str]]]) -> None:
    if rows:
        anchor = rows[0]["global"]  # the axes grow to hold it, so it is one of theirs
        ax.axline((anchor, anchor), slope=1, color="#999999", ls=":", lw=1, label="local = global", zorder=1)
    for name in dict.fromkeys(row["algorithm"] for row in rows if row["algorithm"]):
        color, markers = looks[name]
        own = [row for row in rows if row["algorithm"] == name]
        start = next(row for row in own if row["condition"] == "federated" and row["setting"] == "last")
        ax.scatter(
            start["global"],
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
            ax.scatter(
                row["global"], row["local"], s=110, marker=marker, color="#555555", zorder=4, label=text
            )


def _draw_curve(ax: Axes, own: list[Means], setting: str, color: str, marker: str) -> None:
    tuned = [row for row in own if row["condition"] == "personalized" and row["setting"] == setting]
    start = next(r for r in own if r["condition"] == "federated" and r["setting"] == tuned[0]["start"])
    # A best step without number lies on the way to the last.
    points = sorted(
        (row for row in tuned if row["curve"]), key=lambda row: (row["step"] is not None, row["step"] or 0)
    )
    mixed = _mixed(tuned)
    known = points[0][TUNING_RATE]
    # An entry of a grid is named by its rate.
    rate = "" if known is None or f"rate{known:g}" in setting else f" (rate {known:g})"
    ax.plot(
        [row["global"] for row in [start, *points]],
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
        [row["global"] for row in mixed],
        [row["local"] for row in mixed],
        marker=marker,
        s=34,
        facecolors="none",
        edgecolors=color,
        alpha=0.6,
        zorder=2,
    )
    for row in mixed:
        text, point = f"{row['alpha']:g}", (row["global"], row["local"])
        ax.annotate(text, point, (4, 3), textcoords="offset points", color=color, fontsize=7, zorder=2)


def _mixed(rows: list[Means]) -> list[Means]:
    """Keep the personalized prompts that are interpolated with the federated one."""
    return [row for row in rows if row["condition"] == "personalized" and row["alpha"] != 1.0]


def save_tradeoff(figure: Figure, folder: Path) -> list[Path]:
    """Write tradeoff.png, .svg and .pdf below a folder; return their paths."""
    paths = [folder / f"tradeoff.{kind}" for kind in ("png", "svg", "pdf")]
    for path in paths:
        write_figure(path, figure, dpi=160)
    return paths
