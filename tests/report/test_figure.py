"""The trade-off figure: panels, axes, titles and legend."""

from dataclasses import replace

import polars as pl

from fedprofit.analyze.facts import TUNING_RATE
from fedprofit.report.figure import save_tradeoff, tradeoff_figure
from fedprofit.report.overview import GridCell

TASK = GridCell("task", {"level": "task"}, 0.9, 36, 3, "others", rows=[], units=pl.DataFrame())


def row(condition: str, setting: str, step: int, alpha: float | None) -> dict[str, object]:
    names = {"condition": condition, "setting": setting, "step": step, "alpha": alpha, "start": "last"}
    names["curve"] = alpha == 1.0
    return {
        "algorithm": "fedavg",
        "metric": "loss",
        TUNING_RATE: 0.1,
        "kept": 2.0,
        "local": 2.0 - step,
        **names,
    }


def test_title_lists_clients_and_seeds_by_cell():
    cells = [TASK, replace(TASK, title="iid", axes={"level": "iid"}, heterogeneity=0.4, clients=12, seeds=1)]
    title = tradeoff_figure("study", "model", cells).get_suptitle()
    assert title.endswith("model; test clients 36 of 3 seeds, 12; heterogeneity 0.90, 0.40")


def test_legend_names_interpolations_when_present():
    steps = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    for rows, interpolated in ((steps, False), ([*steps, row("personalized", "tune", 1, 0.3)], True)):
        figure = tradeoff_figure("study", "model", [replace(TASK, rows=rows)])
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        curves = ["equal scores", "fedavg, federated", "fedavg, tune (rate 0.1)"]
        assert labels == curves + ["small, hollow: interpolated, with its alpha"] * interpolated
        assert [text.get_text() for text in figure.axes[0].texts] == ["0.3"] * interpolated


def test_dollar_signs_in_names_are_literal(tmp_path):
    steps = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    named = [{**one, "algorithm": r"$\frac$"} for one in steps]
    figure = tradeoff_figure("2$ or 3$", "model", [replace(TASK, title=r"$\no$", rows=named)])
    save_tradeoff(figure, tmp_path)  # as mathematics, these names are errors
    assert figure.legends[0].get_texts()[1].get_text().startswith(r"$\frac$, federated")


def test_algorithms_of_different_cells_have_different_colors():
    steps = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    other = [{**one, "algorithm": "fedsgd"} for one in steps]
    figure = tradeoff_figure("study", "model", [replace(TASK, rows=steps), replace(TASK, rows=other)])
    colors = [ax.lines[-1].get_color() for ax in figure.axes]
    assert colors[0] != colors[1]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "equal scores",
        *(f"{name}, {what}" for name in ("fedavg", "fedsgd") for what in ("federated", "tune (rate 0.1)")),
    ]


def test_legend_fits_figure_and_names_rates_once():
    names = [f"tune-rate{rate}" for rate in (0.001, 0.01, 0.1)]
    rows = [
        {**row("federated", "last", 0, None), "algorithm": "fedavg-adam"},
        *(
            {**row("personalized", name, 1, alpha), "algorithm": "fedavg-adam"}
            for name in names
            for alpha in (1.0, 0.3)
        ),
    ]
    for count in (1, 2, 3):
        figure = tradeoff_figure(
            "study", "model", [replace(TASK, title=str(n), rows=rows) for n in range(count)]
        )
        figure.draw_without_rendering()
        box, page = figure.legends[0].get_window_extent(), figure.bbox
        assert page.x0 <= box.x0, count
        assert box.x1 <= page.x1, count
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "fedavg-adam, tune-rate0.1" in labels
    assert "fedavg-adam, tune-rate0.01 (rate 0.1)" in labels, "the name contains another rate"


def test_cells_share_axes_and_loss_axes_are_inverted():
    near = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    far = [{**one, "kept": 9.0} for one in near]
    score = [{**one, "metric": "rouge_l"} for one in near]
    cells = [replace(TASK, rows=near + score), replace(TASK, title="iid", rows=far + score)]
    figure = tradeoff_figure("study", "model", cells)
    scores, losses = figure.axes[:2], figure.axes[2:]
    for left, right in (scores, losses):
        assert left.get_xlim() == right.get_xlim()
        assert left.get_ylim() == right.get_ylim()
        assert left.get_ylabel()
        assert not right.get_ylabel()
    high, low = losses[0].get_xlim()
    assert low < 2 < 9 < high, "losses of both cells, lower to the right"
    assert losses[0].get_ylim()[0] > losses[0].get_ylim()[1]
    assert scores[0].get_xlim()[0] < scores[0].get_xlim()[1]
