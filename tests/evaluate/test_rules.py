"""How a data set's targets decide by which variants answers are scored, and what is said of it."""

from dataclasses import replace
from pathlib import Path

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
from fedprofit.data.sources.hub import HubSource
from fedprofit.data.sources.lexicon import LexiconSource
from fedprofit.data.sources.sni import SniSource
from fedprofit.data.sources.table import TableSource
from fedprofit.data.store import ExampleStore, write_store
from fedprofit.data.template import Template
from fedprofit.evaluate.rules import SCORING, Rules, choose_rules, recorded_rules
from fedprofit.evaluate.settings import EvaluationConfig
from fedprofit.report.notes import scoring_notes
from fedprofit.runs.environment import check_environment
from fedprofit.runs.folder import RunFolder

SNI = SniSource(kind="sni", path="tasks")
OWN = TableSource(kind="table", path="own.csv")
LEXICON = LexiconSource(kind="lexicon")
HUB = HubSource(kind="hub", name="owner/name")


def chosen(source, targets=10, unread=0, **settings):
    rules = choose_rules(EvaluationConfig(**settings), source, targets, unread)
    return rules.rouge_tokenizer, rules.exact_match


def test_the_source_and_its_targets_choose_the_variants():
    for source in (OWN, HUB):
        assert chosen(source) == ("rouge-score", "strict")
        assert chosen(source, unread=1) == ("unicode", "strict")
    assert chosen(LEXICON, unread=1) == ("unicode", "sni")
    assert chosen(SNI, unread=5) == ("rouge-score", "sni"), "its own evaluation"
    assert chosen(SNI, unread=6) == ("unicode", "sni"), "most of it is in other scripts"


def test_settings_force_the_variants():
    assert chosen(SNI, rouge_tokenizer="unicode", exact_match="numeric") == ("unicode", "numeric")
    assert chosen(OWN, unread=10, rouge_tokenizer="rouge-score", exact_match="sni") == ("rouge-score", "sni")


@pytest.mark.parametrize(
    ("targets", "unread"),
    [
        ([["Plain"], ["a – “b”, 5 €", "42"]], 0),  # dashes, quotes and symbols are no letters
        ([["Plain"], ["füllt"]], 1),
        ([["plain", "fu\u0308llt"]], 1),  # a combining mark
        ([["苹果"], ["सेब"], ["яблоко"], ["x ٣"]], 4),
        ([["$"], ["😀"], ["yes"]], 2),  # nothing that it could read
    ],
)
def test_a_store_counts_the_targets_that_rouge_score_cannot_read(tmp_path, targets, unread):
    row = {"task": "t", "category": "", "definition": "", "positives": [], "input": "red"}
    pool = pa.Table.from_pylist([{**row, "targets": one} for one in targets], schema=POOL_SCHEMA)
    write_store(tmp_path / "store", pool, Template(tiny_tokenizer(), TemplateConfig(), 2))
    assert ExampleStore(tmp_path / "store").unread_targets() == (sum(map(len, targets)), unread)


def study(path="here", **rules):
    """Results of both levels, whose runs are recorded with the rules given by level."""
    results = table(plain(lambda *_: 4), seeds=1)
    runs = results.select("run", "heterogeneity").unique().rows()
    made = {run: {SCORING: rules[level].to_mapping()} if level in rules else {} for run, level in runs}
    return Tables(Path(path), "made", True, ["heterogeneity"], results, environments=made)


def test_notes_name_the_variants_and_where_they_differ():
    partly = Rules(targets=9, unread_targets=2)
    assert scoring_notes(study(task=partly, iid=partly)) == [
        "ROUGE-L: tokenizer rouge-score, which cannot read all of 2 of the 9 targets."
    ]
    (note,) = scoring_notes(study(task=partly, iid=Rules(targets=8)))
    assert note.endswith("rouge-score, which cannot read all of up to 2 of the 9 targets.")
    assert scoring_notes(study()) == ["ROUGE-L: tokenizer rouge-score."], "what earlier versions did"
    assert scoring_notes(replace(study(), environments={})) == [], "nothing is known"
    (note,) = scoring_notes(study(task=Rules("unicode")))
    assert "tokenizer unicode at heterogeneity task" in note
    assert "tokenizer rouge-score at heterogeneity iid" in note
    assert note.endswith("do not compare.")


def test_scores_of_other_rules_are_not_compared():
    plainly, otherwise = study(), study("there", task=Rules("unicode"), iid=Rules("unicode"))
    assert compare([plainly, study("there", task=Rules("rouge-score", "strict"))], "rouge_l")
    with pytest.raises(UserError, match="there: was scored with unicode, here with rouge-score"):
        compare([plainly, otherwise], "rouge_l")


def test_a_run_begun_by_other_rules_is_not_resumed(tmp_path):
    run = {"data": {"source": {"kind": "table", "path": "x.csv"}}, "name": "t"}
    config = from_mapping(run | {"training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]}})
    folder, made = (
        RunFolder(tmp_path),
        {"data_hash": "d", "model": {"name": "m", "hash": "m", "dtype": "f"}, "config_hash": "c"},
    )
    made |= {"versions": {"fedprofit": "0"}, "machine": {}}
    write_json(folder.environment, made)
    check_environment(folder, config, made | {SCORING: Rules().to_mapping()})
    with pytest.raises(UserError, match=r"exact_match was scored with 'sni'.*'strict' now"):
        check_environment(folder, config, made | {SCORING: Rules(exact_match="strict").to_mapping()})


def test_recorded_rules_ignore_what_they_do_not_know():
    record = {SCORING: {**Rules("unicode").to_mapping(), "later": 1}}
    assert recorded_rules(record) == Rules("unicode")
