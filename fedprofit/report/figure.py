"""The trade-off as a picture: local score against global score, with curves along the steps."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedprofit.evaluate.tradeoff import METRICS
from fedprofit.files import atomic
from fedprofit.report.table import metrics_of

# Okabe and Ito's palette: told apart with every common colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASELINES = {"base": ("*", "base model"), "local": ("P", "local only"), "central": ("X", "central")}
PANELS = ("rouge_l", "loss")


def tradeoff_figure(summary: dict[str, Any]) -> Figure:
    """Draw a panel for ROUGE-L and one for loss; up and to the right is better in both.

    Curves begin at the federated prompt (large open marker), run along the personalization steps, and
    end at the last. Small faint markers behind them are interpolations (alpha below 1).
    """
    panels = [metric for metric in PANELS if metric in metrics_of(summary)]
    figure = Figure(figsize=(5.6 * len(panels), 5.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, metric in zip(axes, panels, strict=True):
        _draw_panel(ax, [row for row in summary["conditions"] if row["metric"] == metric])
        if metric == "loss":
            ax.invert_xaxis()
            ax.invert_yaxis()
        name = METRICS[metric].split(",")[0]
        ax.set_title(name + (" (axes inverted)" if metric == "loss" else ""), loc="left", fontsize=11)
        ax.set_xlabel("global: on all test clients' pool")
        ax.set_ylabel("local: on the client's own test set")
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    data = summary["data"]
    figure.suptitle(
        f"{summary['name']}: what personalization gains locally and loses globally\n"
        f"{summary['model']}, {data['clients']['test']} test clients, "
        f"heterogeneity {data['heterogeneity']:.2f}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _draw_panel(ax: Axes, rows: list[dict[str, Any]]) -> None:
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows if row["algorithm"]))
    for name, color in zip(algorithms, _cycle(COLORS, len(algorithms)), strict=True):
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
        settings = list(dict.fromkeys(row["setting"] for row in own if row["condition"] == "personalized"))
        for setting, marker in zip(settings, _cycle(MARKERS, len(settings)), strict=True):
            _draw_curve(ax, own, start, setting, color, marker)
    for condition, (marker, text) in BASELINES.items():
        found = [row for row in rows if row["condition"] == condition]
        if found:
            row = max(found, key=lambda r: r["step"] or 0)
            ax.scatter(
                row["global"], row["local"], s=110, marker=marker, color="#555555", zorder=4, label=text
            )


def _draw_curve(
    ax: Axes, own: list[dict[str, Any]], start: dict[str, Any], setting: str, color: str, marker: str
) -> None:
    tuned = [row for row in own if row["condition"] == "personalized" and row["setting"] == setting]
    points = sorted((row for row in tuned if row["alpha"] == 1.0), key=lambda row: row["step"])
    mixed = [row for row in tuned if row["alpha"] != 1.0]
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
        label=f"{points[0]['algorithm']}, {setting} (rate {points[0]['rate']:g})",
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


def _cycle(values: tuple[str, ...], count: int) -> list[str]:
    return [values[i % len(values)] for i in range(count)]


def save_tradeoff(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Write tradeoff.png and tradeoff.svg below a folder; return their paths."""
    figure = tradeoff_figure(summary)
    paths = [folder / "tradeoff.png", folder / "tradeoff.svg"]
    for path in paths:
        with atomic(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=160)
    return paths
