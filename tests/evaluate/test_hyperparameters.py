"""The table of settings: typed columns by dotted keys, and ids that are hashes of the content."""

import polars as pl

from fedprofit.evaluate.hyperparameters import identified, joined, settings_frame
from fedprofit.runs.settings import settings_of, settings_table

RUN = {
    "training": {
        "algorithms": [
            {"kind": "fedavg", "name": "a-rate0.1", "method": "a", "client": {"kind": "adam", "rate": 0.1}},
            {"kind": "fedavg", "name": "a-rate1", "method": "a", "client": {"kind": "adam", "rate": 1.0}},
            {"kind": "fedsgd", "name": "sgd", "method": None, "batch_size": "full"},
        ]
    },
    "personalization": [
        {"kind": "finetune", "name": "slow", "start": "last", "algorithms": ["a"], "evaluate_at": [1, 2]}
    ],
    "baselines": {"local": {"kind": "local", "name": "local", "steps": 4}, "central": None},
}


def by_names(settings):
    return {(one.condition, one.algorithm, one.setting): one.row for one in settings}


def test_settings_hold_all_hyperparameters_of_what_is_scored():
    rows = by_names(settings_of(RUN, {"a": "a-rate1"}))
    assert list(rows) == [
        ("base", "", ""),
        ("federated", "a", "last"),
        ("federated", "a", "best"),
        ("personalized", "a", "slow"),
        ("federated", "sgd", "last"),
        ("federated", "sgd", "best"),
        ("local", "", "local"),
    ]
    tuned = rows["personalized", "a", "slow"]
    assert (tuned["algorithm.client.kind"], tuned["algorithm.client.rate"]) == ("adam", 1.0)
    assert tuned["personalization.evaluate_at"] == [1, 2]
    assert not [key for key in tuned if key.endswith((".name", ".method", ".algorithms"))]
    assert rows["local", "", "local"]["baseline.steps"] == 4


def test_setting_keeps_shared_values_when_selection_is_unknown():
    row = by_names(settings_of(RUN, {}))["personalized", "a", "slow"]
    assert row["algorithm.client.kind"] == "adam"
    assert "algorithm.client.rate" not in row


def test_setting_id_depends_on_content_not_names():
    renamed = {**RUN, "personalization": [{**RUN["personalization"][0], "name": "fast"}]}
    longer = {**RUN, "personalization": [{**RUN["personalization"][0], "evaluate_at": [1, 3]}]}
    own, same, other = (
        by_names(settings_of(run, {}))["personalized", "a", name]["setting_id"]
        for run, name in ((RUN, "slow"), (renamed, "fast"), (longer, "slow"))
    )
    assert own == same != other
    ids = [one.row["setting_id"] for one in settings_of(RUN, {})]
    assert len({*ids}) == len(ids)
    assert not {*ids} & {one.row["setting_id"] for one in settings_of(RUN, {}, "participating")}


def test_settings_columns_are_typed():
    table = settings_table(settings_of(RUN, {"a": "a-rate1"}))
    assert table.schema["algorithm.client.rate"] == pl.Float64
    assert table.schema["baseline.steps"] == pl.Int64
    assert table.schema["personalization.evaluate_at"] == pl.List(pl.Int64)
    again = settings_frame([*table.to_dicts(), *table.to_dicts()])
    assert again.equals(table), "a setting of several runs is there once"


def test_hyperparameters_are_joined_by_id():
    names = {"condition": ["personalized", "personalized"], "algorithm": ["a", "new"]}
    frame = pl.DataFrame({**names, "setting": ["slow", "slow"], "start": ["last", "last"]})
    settings = settings_of(RUN, {"a": "a-rate1"})
    found = identified(frame, settings)
    assert found["setting_id"].null_count() == 1, "a setting that the configuration does not have"
    rates = joined(found, settings_table(settings), ["algorithm.client.rate", "personalization.proximal"])
    assert rates["algorithm.client.rate"].to_list() == [1.0, None]
    assert rates["personalization.proximal"].to_list() == [None, None]
