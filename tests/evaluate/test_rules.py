"""Resolution of metric variants by a data set's targets, and its description."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_claims import plain, table
from tiny import tiny_tokenizer

from fedprofit.analyze.compare import compare
from fedprofit.analyze.tables import Tables
from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.core.files import write_json
from fedprofit.data.pool import POOL_SCHEMA
from fedprofit.data.settings import TemplateConfig
from fedprofit.data.sources.base import SourceSettings
from fedprofit.data.store import Examples, ExampleStore, write_store
from fedprofit.data.template import Template
from fedprofit.evaluate.facts import DataFacts
from fedprofit.evaluate.metrics.exact_match import ExactMatch
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.metrics.rouge_l import RougeL
from fedprofit.evaluate.rules import EARLIER, METRICS, decide, recorded_facts, recorded_variant
from fedprofit.report.notes import scoring_notes
from fedprofit.runs.environment import check_environment
from fedprofit.runs.folder import RunFolder

OWN, HUB, SNI, LEXICON = "table", "hub", "sni", "lexicon"


def chosen(source, targets=10, unread=0, tokenizer="auto", variant="auto"):
    metrics = [LOSS, RougeL(tokenizer=tokenizer), ExactMatch(variant=variant)]
    kind = SourceSettings.family.find(source)
    facts = DataFacts(source, targets, unread, kind.is_users_own, kind.unread_share)
    loss, rouge, exact = decide(metrics, facts).metrics
    assert loss == LOSS
    return rouge.tokenizer, exact.variant


def test_source_and_targets_determine_the_variants():
    for source in (OWN, HUB):
        assert chosen(source) == ("rouge-score", "strict")
        assert chosen(source, unread=1) == ("unicode", "strict")
    assert chosen(LEXICON, unread=1) == ("unicode", "sni")
    assert chosen(SNI, unread=5) == ("rouge-score", "sni"), "its own evaluation"
    assert chosen(SNI, unread=6) == ("unicode", "sni"), "most of it is in other scripts"


def test_settings_force_the_variants():
    assert chosen(SNI, tokenizer="unicode", variant="numeric") == ("unicode", "numeric")
    assert chosen(OWN, unread=10, tokenizer="rouge-score", variant="sni") == ("rouge-score", "sni")


@pytest.mark.parametrize(
    ("targets", "unread"),
    [
        ([["Plain"], ["a – “b”, 5 €", "42"]], 0),  # dashes, quotes and symbols are not letters
        ([["Plain"], ["füllt"]], 1),
        ([["plain", "fu\u0308llt"]], 1),  # a combining mark
        ([["苹果"], ["सेब"], ["яблоко"], ["x ٣"]], 4),
        ([["$"], ["😀"], ["yes"]], 2),  # no readable character
    ],
)
def test_store_counts_targets_unread_by_rouge_score(tmp_path, targets, unread):
    row = {"task": "t", "category": "", "definition": "", "positives": [], "input": "red"}
    pool = pa.Table.from_pylist([{**row, "targets": one} for one in targets], schema=POOL_SCHEMA)
    write_store(tmp_path / "store", pool, Template(tiny_tokenizer(), TemplateConfig(), 2))
    store = ExampleStore(tmp_path / "store")
    assert store.unread_targets() == (sum(map(len, targets)), unread)
    assert [example.row for example in Examples(store, np.array([0, 0]))] == [0, 0]
    assert Examples(store, np.array([len(targets) - 1]))[0].row == len(targets) - 1


def record(tokenizer="rouge-score", variant="sni", targets=0, unread=0):
    """The record of a run's metrics."""
    metrics = [LOSS, RougeL(tokenizer=tokenizer), ExactMatch(variant=variant)]
    return {METRICS: decide(metrics, DataFacts("table", targets, unread)).to_mapping()}


def study(path="here", **records):
    """Results of both levels, whose runs have the records given by level."""
    results = table(plain(lambda *_: 4), seeds=1)
    runs = results.select("run", "axis.heterogeneity").unique().rows()
    made = {run: records.get(level, {}) for run, level in runs}
    return Tables(Path(path), "made", True, ["heterogeneity"], results, environments=made)


def test_notes_name_the_variants_and_where_they_differ():
    partly = record(targets=9, unread=2)
    assert scoring_notes(study(task=partly, iid=partly)) == [
        "ROUGE-L: tokenizer rouge-score, which cannot read all of 2 of the 9 targets."
    ]
    (note,) = scoring_notes(study(task=partly, iid=record(targets=8)))
    assert note.endswith("rouge-score, which cannot read all of up to 2 of the 9 targets.")
    assert scoring_notes(study()) == ["ROUGE-L: tokenizer rouge-score."], "what earlier versions did"
    assert scoring_notes(replace(study(), environments={})) == [], "nothing is known"
    (note,) = scoring_notes(study(task=record("unicode")))
    assert "tokenizer unicode at heterogeneity task" in note
    assert "tokenizer rouge-score at heterogeneity iid" in note
    assert note.endswith("are not comparable.")


def test_scores_of_other_variants_are_not_compared():
    plainly, otherwise = study(), study("there", task=record("unicode"), iid=record("unicode"))
    assert compare([plainly, study("there", task=record("rouge-score", "strict"))], "rouge_l")
    with pytest.raises(UserError, match="there: was scored with unicode, here with rouge-score"):
        compare([plainly, otherwise], "rouge_l")


def test_run_with_other_variants_is_not_resumed(tmp_path):
    run = {"data": {"source": {"kind": "table", "path": "x.csv"}}, "name": "t"}
    config = from_mapping(run | {"training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]}})
    folder, made = (
        RunFolder(tmp_path),
        {"data_hash": "d", "model": {"name": "m", "hash": "m", "dtype": "f"}, "config_hash": "c"},
    )
    made |= {"versions": {"fedprofit": "0"}, "machine": {}}
    write_json(folder.environment, made)
    check_environment(folder, config, made | record())
    with pytest.raises(UserError, match=r"exact_match was scored with 'sni'.*'strict' now"):
        check_environment(folder, config, made | record(variant="strict"))


def test_records_survive_json_and_later_versions():
    stored = json.loads(json.dumps(record("unicode", targets=9, unread=2), allow_nan=False))
    stored[METRICS]["rouge_l"] |= {"later": 1, "variant": {**stored[METRICS]["rouge_l"]["variant"], "new": 2}}
    data = DataFacts("table", 9, 2)
    expected = [LOSS, RougeL(tokenizer="unicode"), ExactMatch(variant="sni")]
    assert list(recorded_facts(stored).values()) == [one.facts(data) for one in expected]


def test_records_of_earlier_versions_are_read():
    earlier = {EARLIER: {"rouge_tokenizer": "rouge-score", "exact_match": "numeric", "targets": 9,
                         "unread_targets": 2, "other": 1}}  # fmt: skip
    assert recorded_variant(earlier, "exact_match").name == "numeric"
    assert recorded_variant(earlier, "rouge_l").describe() == (
        "ROUGE-L: tokenizer rouge-score, which cannot read all of 2 of the 9 targets"
    )
    assert recorded_variant(earlier, "loss").name == ""
