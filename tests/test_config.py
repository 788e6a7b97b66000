"""Configuration: error messages, overrides, round trips, hashes."""

import copy
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fedprofit.config.file import from_mapping, load_config, override_value, to_yaml
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.local.optimizer import Sgd

BASE: dict[str, Any] = {
    "name": "demo",
    "data": {"source": {"kind": "lexicon"}},
    "training": {
        "algorithms": [
            {"kind": "fedavg", "name": "avg", "steps": 2},
            {"kind": "fedsgd", "name": "sgd", "batch_size": "full"},
        ]
    },
    "personalization": [{"name": "slow", "steps": 3, "interpolation": [0.5]}],
}

# Nine lists of nine aliases to the previous one: 9^9 values.
BOMB = "a: &a [x]\n" + "".join(
    f"{now}: &{now} [{', '.join([f'*{before}'] * 9)}]\n" for before, now in pairwise("abcdefghij")
)


def changed(*overrides):
    mapping = copy.deepcopy(BASE)
    for override in overrides:
        override_value(mapping, override)
    return mapping


def without(*path):
    mapping = inner = copy.deepcopy(BASE)
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return mapping


def message(mapping):
    with pytest.raises(UserError) as caught:
        from_mapping(mapping, "run.yaml")
    text = str(caught.value)
    assert text.startswith("run.yaml: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text.removeprefix("run.yaml: ").removesuffix(".")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", "unknown key 'sed' (did you mean 'seed'?)"),
        ("training.round=3", "unknown key 'training.round' (did you mean 'rounds'?)"),
        ("data.sourc=x", "unknown key 'data.sourc' (did you mean 'source'?)"),
        ("data.source.instance=3", "unknown key 'data.source.instance' (did you mean 'instances'?)"),
        (
            "data.source={kind: sni, path: x, max_word: 3}",
            "unknown key 'data.source.max_word' (did you mean 'max_words'?)",
        ),
        (
            "data.source={kind: table, path: x, columns: {inpt: y}}",
            "unknown key 'data.source.columns.inpt' (did you mean 'input'?)",
        ),
        (
            "training.algorithms.0.client.rat=1",
            "unknown key 'training.algorithms.0.client.rat' (did you mean 'rate'?)",
        ),
        (
            "training.algorithms.1.server.knd=sgd",
            "unknown key 'training.algorithms.1.server.knd' (did you mean 'kind'?)",
        ),
        # Keys of another algorithm are unknown, and only this kind's keys are listed.
        (
            "training.algorithms.1.steps=3",
            "unknown key 'training.algorithms.1.steps' (known: aggregate, batch_size, kind, method, name, "
            "server)",
        ),
        ("personalization.0.proxima=1", "unknown key 'personalization.0.proxima' (did you mean 'proximal'?)"),
        # These are named like the tags that pydantic puts into its locations.
        ("data.table=3", "unknown key 'data.table' (known: bad_rows, clients, examples, "),
        (
            "training.algorithms.0.hub=3",
            "unknown key 'training.algorithms.0.hub' (known: aggregate, batch_size, ",
        ),
    ],
)
def test_config_suggests_nearest_key_when_unknown(override, expected):
    assert message(changed(override)).startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.rounds='3'", "'training.rounds': should be an integer (found '3')"),
        ("training.rounds=3.0", "'training.rounds': should be an integer (found 3.0)"),
        ("training.rounds=true", "'training.rounds': should be an integer (found true)"),
        ("training.rounds=", "'training.rounds': should be an integer (found null)"),
        ("training.rounds=0", "'training.rounds': should be greater than or equal to 1 (found 0)"),
        ("training=3", "'training': should be a section with keys (found 3)"),
        ("training.algorithms=x", "'training.algorithms': should be a list (found 'x')"),
        ("training.algorithms=[]", "'training': algorithms is empty; name at least one"),
        (
            "personalization.0.client.beta2=1",
            "'personalization.0.client.beta2': should be less than 1 (found 1)",
        ),
        ("training.algorithms.0.epochs=1", "'training.algorithms.0': give either steps or epochs"),
        (
            "training.algorithms.1.server.rate=.nan",
            "'training.algorithms.1.server.rate': should be a finite number (found nan)",
        ),
        (
            "training.algorithms.1.server.kind=admm",
            "'training.algorithms.1.server.kind': there is no server optimizer 'admm' "
            "(did you mean 'adam'?). Plug-ins add more",
        ),
        (
            "training.algorithms.1.batch_size=fulll",
            "'training.algorithms.1.batch_size': should be an integer or 'full' (found 'fulll')",
        ),
        (
            "training.algorithms.0.kind=fedag",
            "'training.algorithms.0.kind': there is no algorithm 'fedag' (did you mean 'fedavg'?)",
        ),
        ("training.algorithms.0.kind={a: 1}", "'training.algorithms.0.kind': there is no algorithm"),
        ("training.algorithms.0.client.kind=[a]", "'training.algorithms.0.client.kind': there is no client"),
        ("data.source={path: x}", "'data.source.kind' is missing; it determines the keys of the section"),
        ("data.source={kind: table}", "'data.source.path' is missing and has no default"),
        ("data.unseen_tasks=abc", "'data.unseen_tasks': should be an integer or a list (found 'abc')"),
        ("data.unseen_tasks=[a, 2]", "'data.unseen_tasks.1': should be text (found 2)"),
        (
            "data.partition={kind: dirichlet, alpha: 0}",
            "'data.partition.alpha': should be greater than 0 (found 0)",
        ),
        (
            "personalization.0.interpolation=[0.5, 2]",
            "'personalization.0.interpolation.1': should be less than or equal to 1 (found 2)",
        ),
        (
            "personalization.0.algorithms=[avg, fedsdg]",
            "personalization: algorithms of 'slow' names 'fedsdg'; name",
        ),
        ("personalization.0.algorithms=[]", "personalization: algorithms of 'slow' is empty; name some of "),
        ("tuner.init=text", "'tuner': init: text needs a text, and no other init takes one"),
        ("name=a b", "'name': should be a name of letters, digits, "),
    ],
)
def test_config_names_wrong_value_and_expected_type(override, expected):
    assert message(changed(override)).startswith(expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("name",), "'name'"),
        (("data",), "'data'"),
        (("training", "algorithms"), "'training.algorithms'"),
    ],
)
def test_config_names_missing_key(path, expected):
    assert message(without(*path)) == f"{expected} is missing and has no default"


def test_config_reports_all_problems_at_once():
    text = message(changed("sed=1", "training.rounds=0", "personalization.0.name=/"))
    assert text.count("; ") == 2
    assert "'training.rounds'" in text
    assert "'personalization.0.name'" in text
    assert "'sed'" in text


@pytest.mark.parametrize("entries", ["training.algorithms", "personalization"])
def test_config_refuses_duplicate_names(entries):
    mapping = changed()
    for key in entries.split("."):
        last = mapping = mapping[key]
    twice = changed(f"{entries}={[{**last[0], 'name': 'n'}, {**last[-1], 'name': 'n'}]}")
    assert message(twice) == f"{entries}: two entries have the same name; names must be distinct"


def test_config_refuses_ambiguous_stage_names():
    mapping = changed("training.algorithms.0.name=avg", "training.algorithms.1.name=avg-adam")
    mapping["personalization"] = [{"name": "adam-slow", "steps": 1}, {"name": "slow", "steps": 1}]
    with pytest.raises(
        UserError, match=r"'slow' of 'avg-adam' and 'adam-slow' of 'avg' would both be called"
    ):
        from_mapping(mapping)
    mapping["personalization"][0]["algorithms"] = ["avg-adam"]
    from_mapping(mapping)


def test_config_refuses_duplicate_names_of_baseline_trials():
    twice = "baselines.{}=[{{name: n, steps: 1}}, {{name: {}, steps: 2}}]"
    problem = "training.algorithms and the baselines' trials: two entries have the same name"
    assert message(changed(twice.format("local", "n"))).startswith(problem)
    name = changed()["training"]["algorithms"][0]["name"]
    assert message(changed(twice.format("central", name))).startswith(problem)
    both = changed(twice.format("local", "a"), twice.format("central", "b"))
    assert message(both).startswith(problem)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "baselines.local={name: l, stepz: 3}",
            "unknown key 'baselines.local.stepz' (did you mean 'steps'?)",
        ),
        (
            "baselines.local=[{name: a, steps: 1}, {name: b, steps: 1, client: {ratee: 1}}]",
            "unknown key 'baselines.local.1.client.ratee' (did you mean 'rate'?)",
        ),
        (
            "baselines.local={name: l, steps: 0}",
            "'baselines.local.steps': should be greater than or equal to 1",
        ),
        ("baselines.local={name: l, epochs: 1, steps: 1}", "'baselines.local': give either steps or epochs"),
        (
            "baselines.central={name: c, steps: 1, interpolation: [0.5]}",
            "unknown key 'baselines.central.interpolation' (known: batch_size",
        ),
        (
            "baselines.centrl={steps: 1}",
            "'baselines.centrl.kind': there is no baseline 'centrl' (did",
        ),
        ("baselines.central=[]", "'baselines': central is an empty list. Give it a trial, or"),
        ("baselines.central=3", "'baselines.central': should be a section with keys (found 3)"),
    ],
)
def test_config_names_wrong_key_in_baseline(override, expected):
    assert expected in message(changed(override))
    assert ";" not in message(changed(override))


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_config_refuses_value_that_is_no_mapping(value):
    assert message(value).startswith("expected keys and values, found")


def test_yaml_keys_are_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("2020-01-31: x\n010: y\n")
    with pytest.raises(UserError, match=r"unknown key '2020-01-31'.*unknown key '010'"):
        load_config(path)


def test_entries_are_named_after_kind_by_default():
    mapping = without("training", "algorithms", 1, "name")
    del mapping["personalization"][0]["name"]
    config = from_mapping(mapping)
    assert [one.name for one in config.training.algorithms] == ["avg", "fedsgd"]
    assert config.personalization[0].name == "finetune"
    assert config.baselines["central"].name == "central"


def test_override_of_kind_replaces_keys_of_section(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(from_mapping(BASE)).partition("baselines:")[0], encoding="utf-8")
    config = load_config(path, ["baselines.local.client.kind=sgd"])
    assert config.baselines["local"].steps == 40
    assert config.baselines["local"].client == Sgd()


def test_overrides_reach_lists_and_create_sections():
    mapping = changed(
        "training.algorithms.0.client.rate=0.5",
        "training.algorithms.0.server.kind=yogi",
        "evaluation.metrics=[loss]",
        "data.examples=null",
        "data.unseen_tasks=[a, b]",
        "name=other=x",
    )
    assert mapping.pop("name") == "other=x"
    config = from_mapping({**mapping, "name": "other"})
    assert config.training.algorithms[0].client.rate == 0.5
    assert config.training.algorithms[0].client.kind == "adam", "the other keys keep their defaults"
    assert config.training.algorithms[0].server.kind == "yogi"
    assert config.training.algorithms[1] == from_mapping(BASE).training.algorithms[1]
    assert [metric.name for metric in config.evaluation.metrics] == ["loss"]
    assert config.data.examples is None
    assert config.data.unseen_tasks == ("a", "b")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("training.rounds", "expected key=value"),
        ("=3", "expected key=value"),
        ("training.algorithms.2.name=x", "'2' is not a position in a list of 2 (from 0)"),
        ("training.algorithms.-1.name=x", "'-1' is not a position"),
        ("training.algorithms.first=x", "'first' is not a position"),
        ("training.algorithms.²=x", "'²' is not a position"),
        ("name.x=3", "'name' has the value 'demo', so nothing can be set below it"),
        ("training.rounds=[3", "'[3' is not a YAML value"),
        ("training.rounds=a: b: c", "'a: b: c' is not a YAML value"),
    ],
)
def test_override_names_its_problem(override, reason):
    with pytest.raises(UserError) as caught:
        changed(override)
    assert str(caught.value).startswith(f"--set {override}: {reason}")


@pytest.mark.parametrize("text", ["", "just text", "- 1"])
def test_override_refuses_file_without_keys(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="--set seed=3: the configuration contains no keys"):
        load_config(path, ["seed=3"])


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1e+3", 1000.0), ("2.5E-3", 0.0025), ("3", 3.0)]
)
def test_scientific_notation_is_a_number(tmp_path, text, value):
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml_text.dump(changed("training.algorithms.0.client.rate=7")).replace("rate: 7", f"rate: {text}")
    )
    assert load_config(path).training.algorithms[0].client.rate == value
    assert load_config(path, [f"personalization.0.proximal={text}"]).personalization[0].proximal == value


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("name='1e3'", "tuner={init: text, text: 'yes: \"no\"\n1e-5'}", "personalization.0.client.rate=1e-7"),
        ("data.source={kind: table, path: '0x10', columns: {client: 'null', input: '2020-01-31'}}",),
        (
            "data.partition={kind: flwr, partitioner: P, "
            "options: {alpha: 0.5, names: ['1e-3', a], deep: {x: null}}}",
        ),
        (
            "data.unseen_tasks=['007', 'ü']",
            "data.examples=null",
            "baselines.local=null",
            "evaluation.metrics=[loss]",
        ),
    ],
)
def test_to_yaml_reads_back_equal(tmp_path, overrides):
    config = from_mapping(changed(*overrides))
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    assert load_config(path).hash == config.hash


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def test_hash_depends_only_on_content():
    config = from_mapping(BASE)
    assert from_mapping(reversed_keys(BASE)).hash == config.hash
    assert from_mapping(changed("training.rounds=10", "seed=0")).hash == config.hash, "explicit defaults"
    assert from_mapping(changed("training.algorithms.0.server.rate=1")).hash == config.hash, "1 is 1.0"
    others = [
        "seed=1",
        "training.algorithms.0.steps=3",
        "personalization.0.proximal=1",
        "data.unseen_tasks=1",
    ]
    hashes = {from_mapping(changed(other)).hash for other in others}
    assert len(hashes | {config.hash}) == 5
    swapped = changed(f"training.algorithms={BASE['training']['algorithms'][::-1]}")
    assert from_mapping(swapped).hash != config.hash, "the order of a list matters"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("name: x\ndata: [1\nseed: 2\n", 3, "expected"),
        ("name: x\n\tseed: 3\n", 2, "'\\t'"),
        ("name: 'x\n", 2, "end of stream"),
        ("name: x\nseed: 1\nname: y\n", 3, "the key 'name' appears twice"),
        ("data:\n  clients: {train: 1, test: 2, train: 3}\n", 2, "the key 'train' appears twice"),
        ("name: x\n? [1]\n: 2\n", 2, "a key is a section or a list"),
        ("name: !!python/object/apply:os.getcwd []\n", 1, "python/object"),
    ],
)
def test_yaml_errors_name_file_and_line(tmp_path, text, line, reason):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: not valid YAML at line {line}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: !!int abc", "line 1: 'abc' does not match its tag !!int"),
        ("x: 1\na: 99999999999999999999", "line 2: the integer 99999999999999999999 needs more than 64"),
        ("a: " + "9" * 6000, "…"),
        ("[" * 20_000, "line 1: is nested more than 50 deep"),
        ("- " * 500, "line 1: is nested more than 50 deep"),
        ("a: &a [*a]", "line 1: the anchor &a refers back to itself"),
        ("a: *b", "line 1: the alias *b has no anchor before it"),
        (BOMB, "values, with aliases expanded"),
        ("a: 1\n---\nb: 2", "contains 2 documents"),
        ("a: b\nc: \x00", "line 2: the character U+0000 is not text"),
    ],
)
def test_yaml_load_names_line_when_beyond_limits(text, reason):
    with pytest.raises(yaml_text.YamlProblem) as caught:
        yaml_text.load(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("2026-13-45", "2026-13-45"),
        ("yes", "yes"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("~", None),
        ("True", True),
        ("!!str 010", "010"),
        ("!!float 1", 1.0),
    ],
)
def test_yaml_load_follows_core_schema(text, value):
    found = yaml_text.load(text)
    assert (found, type(found)) == (value, type(value))


TEXTS = [
    "1:30",
    "010",
    "yes",
    "null",
    "1e-3",
    "2026-01-01",
    "~",
    "",
    " a",
    "a\nb\n",
    "- a",
    "#",
    "é\u2028\x85",
    "<<",
]


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_dump_reads_back_in_every_version(text):
    value = {"a": [text, {text + "x": text}], "b": {text: 1e-7}}
    written = yaml_text.dump(value)
    assert yaml_text.load(written) == value
    older = pytest.importorskip("yaml")  # YAML 1.1
    assert older.safe_load(written) == value


def test_yaml_alias_is_a_copy():
    mapping = yaml_text.load("a: &x {k: 1}\nb: *x\n")
    override_value(mapping, "a.k=2")
    assert mapping == {"a": {"k": 2}, "b": {"k": 1}}


def test_messages_truncate_long_values():
    long = "x" * 5000
    assert len(message(changed(f"training.rounds={long}"))) < 300
    assert len(message(changed(*(f"{long}{n}=1" for n in range(100))))) < 3000
    with pytest.raises(UserError) as caught:
        override_value({"a": 1}, f"a={long}: {long}: [")
    assert len(str(caught.value)) < 500


def test_yaml_merge_keys_can_be_overridden(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: x\ndata: {source: {kind: lexicon}}\ntraining:\n  algorithms:\n"
        "  - &one {kind: fedsgd, name: one, batch_size: 4}\n  - {<<: *one, name: two}\n"
    )
    assert [(a.name, a.batch_size) for a in load_config(path).training.algorithms] == [("one", 4), ("two", 4)]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x01\n"])
def test_load_config_refuses_binary_file(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"run\.yaml: .*not .*text"):
        load_config(path)


def test_load_config_names_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot read .*No such file"):
        load_config(tmp_path / "none.yaml")


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        from_mapping(BASE).seed = 3


@pytest.mark.parametrize(
    "data", [pl.DataFrame({"input": ["a"]}), np.zeros(2), [{"input": "a"}], object()], ids=type
)
def test_config_refuses_data_in_memory(data):
    mapping = changed() | {"data": {"source": {"kind": "table", "path": data}}}
    kind = re.escape(type(data).__name__)
    with pytest.raises(
        UserError, match=rf"'data.source.path':? holds data in memory .*{kind}.*memory\.dataset"
    ):
        from_mapping(mapping)


def test_config_converts_python_values():
    source = {"kind": "table", "path": Path("here.csv")}
    mapping = changed() | {"seed": np.int64(3), "data": {"source": source}}
    config = from_mapping(mapping)
    assert (config.seed, config.data.source.path) == (3, "here.csv")
    with pytest.raises(UserError, match=r"'seed' holds a numpy.ndarray: should be text, a number"):
        from_mapping(mapping | {"seed": np.zeros(2)})
