"""The picture says what lies behind each of its panels."""

import polars as pl

from fedprofit.report.figure import tradeoff_figure
from fedprofit.report.overview import Place


def test_each_place_has_its_own_clients_and_seeds():
    places = [
        Place("task", {"level": "task"}, 0.9, clients=36, seeds=3, rows=[], units=pl.DataFrame()),
        Place("iid", {"level": "iid"}, 0.4, clients=12, seeds=1, rows=[], units=pl.DataFrame()),
    ]
    said = tradeoff_figure("study", "model", places).get_suptitle()
    assert said.endswith("model; test clients 36 of 3 seeds, 12; heterogeneity 0.90, 0.40")
