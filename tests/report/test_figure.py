"""The picture says what lies behind each of its panels, and what its marks mean."""

from dataclasses import replace

import polars as pl

from fedprofit.analyze.facts import TUNING_RATE
from fedprofit.report.figure import save_tradeoff, tradeoff_figure
from fedprofit.report.overview import Place

TASK = Place("task", {"level": "task"}, 0.9, clients=36, seeds=3, rows=[], units=pl.DataFrame())


def row(condition: str, setting: str, step: int, alpha: float | None) -> dict[str, object]:
    named = {"condition": condition, "setting": setting, "step": step, "alpha": alpha, "start": "last"}
    named["curve"] = alpha == 1.0
    return {
        "algorithm": "fedavg",
        "metric": "loss",
        TUNING_RATE: 0.1,
        "global": 2.0,
        "local": 2.0 - step,
        **named,
    }


def test_each_place_has_its_own_clients_and_seeds():
    places = [TASK, replace(TASK, title="iid", axes={"level": "iid"}, heterogeneity=0.4, clients=12, seeds=1)]
    said = tradeoff_figure("study", "model", places).get_suptitle()
    assert said.endswith("model; test clients 36 of 3 seeds, 12; heterogeneity 0.90, 0.40")


def test_interpolations_are_named_where_there_are_any():
    steps = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    for rows, named in ((steps, False), ([*steps, row("personalized", "tune", 1, 0.3)], True)):
        figure = tradeoff_figure("study", "model", [replace(TASK, rows=rows)])
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        curves = ["local = global", "fedavg, federated", "fedavg, tune (rate 0.1)"]
        assert labels == curves + ["small, hollow: interpolated, with its alpha"] * named
        assert [text.get_text() for text in figure.axes[0].texts] == ["0.3"] * named


def test_dollar_signs_in_names_stay_what_they_are(tmp_path):
    steps = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    named = [{**one, "algorithm": r"$\frac$"} for one in steps]
    figure = tradeoff_figure("2$ or 3$", "model", [replace(TASK, title=r"$\no$", rows=named)])
    save_tradeoff(figure, tmp_path)  # as mathematics, these names are errors
    assert figure.legends[0].get_texts()[1].get_text().startswith(r"$\frac$, federated")


def test_an_algorithm_of_one_place_alone_has_a_color_of_its_own_and_is_named():
    steps = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    other = [{**one, "algorithm": "fedsgd"} for one in steps]
    figure = tradeoff_figure("study", "model", [replace(TASK, rows=steps), replace(TASK, rows=other)])
    colors = [ax.lines[-1].get_color() for ax in figure.axes]
    assert colors[0] != colors[1]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "local = global",
        *(f"{name}, {what}" for name in ("fedavg", "fedsgd") for what in ("federated", "tune (rate 0.1)")),
    ]


def test_the_legend_lies_within_the_picture_and_says_a_rate_once():
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
    assert "fedavg-adam, tune-rate0.01 (rate 0.1)" in labels, "a rate that the name does not say"


def test_places_share_the_axes_of_a_metric_and_losses_fall_to_the_right():
    near = [row("federated", "last", 0, None), row("personalized", "tune", 1, 1.0)]
    far = [{**one, "global": 9.0} for one in near]
    score = [{**one, "metric": "rouge_l"} for one in near]
    places = [replace(TASK, rows=near + score), replace(TASK, title="iid", rows=far + score)]
    figure = tradeoff_figure("study", "model", places)
    scores, losses = figure.axes[:2], figure.axes[2:]
    for left, right in (scores, losses):
        assert left.get_xlim() == right.get_xlim()
        assert left.get_ylim() == right.get_ylim()
        assert left.get_ylabel()
        assert not right.get_ylabel()
    high, low = losses[0].get_xlim()
    assert low < 2 < 9 < high, "both places' losses, less to the right"
    assert losses[0].get_ylim()[0] > losses[0].get_ylim()[1]
    assert scores[0].get_xlim()[0] < scores[0].get_xlim()[1]
