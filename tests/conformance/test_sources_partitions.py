"""Checks of every data source and partition, built in or not; a component is one row of a table below."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedprofit import catalogue, plugins
from fedprofit.config.component import FAMILIES
from fedprofit.config.file import from_mapping, to_yaml
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.memory import dataset, read_rows
from fedprofit.data.partition import partition
from fedprofit.data.partitions.base import GivenClients, LevelSettings
from fedprofit.data.pool import POOL_SCHEMA
from fedprofit.data.sources import content, fingerprint, read_source
from fedprofit.data.sources.base import SourceSettings

PLUGIN = Path(__file__).parents[2] / "examples" / "plugins" / "function_source.py"
ROWS = [{"input": f"say {n}", "target": f"it is {n}", "client": f"c{n % 7}"} for n in range(140)]


def table(folder):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return {"path": str(folder / "rows.jsonl"), "columns": {"client": "client"}}


def hub(folder):
    pytest.importorskip("datasets", reason="needs datasets: pip install '.[hub]'")
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return {"name": str(folder / "hub")}


def sni(folder):
    for number in range(4):
        instances = [{"input": f"say {n}", "output": [f"it is {n}"]} for n in range(9)]
        task = {"Definition": ["Say it."], "Categories": ["Saying"], "Positive Examples": []}
        (folder / f"task00{number}_say.json").write_text(json.dumps(task | {"Instances": instances}))
    return {"path": str(folder), "max_tasks": 2, "instances": 4}


# For each source: its settings, and whether its rows depend on the seed.
SOURCES = {
    "lexicon": (lambda _: {"instances": 5, "categories": ["dates"]}, False),
    "table": (table, False),
    "hub": (hub, False),
    "memory": (lambda _: dataset(ROWS).model_dump(exclude={"kind"}, exclude_none=True), False),
    "sni": (sni, True),
    "arithmetic": (lambda _: {"rows": 5}, True),
}


class Reversed(LevelSettings, kind="reversed"):
    """The task of the last client goes to the first one, and so on."""

    def assign(self, stock, generator):
        return stock.by_choice(stock.given[::-1, None], generator)


class Lengths(GivenClients, kind="lengths"):
    """Clients by the last digit of their inputs."""

    def clients(self, pool, split, hidden, settings, seed):
        last = np.array([int(text[-1]) for text in pool["input"].to_pylist()])
        shuffle = numpy_generator(seed, "lengths").permutation(10)
        return [f"digit {n}" for n in range(10)], np.where(hidden, -1, shuffle[last]), split


FLOWER = {"partitioner": "DirichletPartitioner", "options": {"alpha": 1.0}}
PARTITIONS = {
    "auto": {},
    "natural": {},
    "flwr": FLOWER,
    "task": {},
    "tasks": {"tasks_per_client": 2},
    "category": {},
    "dirichlet": {"alpha": 1.0},
    "iid": {"quantity_skew": 0.0},
    "reversed": {},
    "lengths": {},
}
GIVEN = ("natural", "flwr", "lengths")
MADE = [kind for kind in PARTITIONS if kind not in GIVEN]


@pytest.fixture(scope="module", autouse=True)
def strangers():
    """Components from outside the package; removed afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for family, known in ((FAMILIES["data source"], SOURCES), (FAMILIES["partition"], PARTITIONS)):
            patch.setattr(
                family, "kinds", {kind: family.kinds[kind] for kind in known if kind in family.kinds}
            )
        patch.setattr(plugins, "_files", {})
        plugins.load_files([PLUGIN])
        yield
        for file in plugins.loaded_files():
            del sys.modules[file.module]
    for kind in ("reversed", "lengths"):
        FAMILIES["partition"].kinds.pop(kind, None)


def built_in(family):
    return {kind for kind, one in FAMILIES[family].all_kinds().items() if one.is_built_in()}


def test_table_names_every_built_in_component():
    assert built_in("data source") <= set(SOURCES)
    assert built_in("partition") <= set(PARTITIONS)


def config(**data):
    data = {"source": {"kind": "lexicon"}, **data}
    return from_mapping({"name": "one", "data": data, "training": {"algorithms": [{"kind": "fedsgd"}]}})


@pytest.fixture(params=SOURCES)
def source(request, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    settings, _ = SOURCES[request.param]
    return config(source={"kind": request.param, **settings(tmp_path)}).data.source


def test_source_reads_same_pool_twice(source):
    pool = read_source(source, 3)
    assert pool.schema == POOL_SCHEMA
    assert pool.num_rows
    assert read_source(source, 3).equals(pool)
    assert fingerprint(source, 3) == fingerprint(source, 3)
    assert content(source) == content(source) != ""
    other = read_source(source, 4)
    assert other.equals(pool) != SOURCES[source.kind][1]


def test_source_names_its_clients_where_rows_do(source):
    assert (read_source(source, 0)["client"].null_count == 0) == source.has_clients


@pytest.mark.parametrize("component", ["source", "partition"])
def test_component_survives_yaml(component, source):
    kinds = PARTITIONS if component == "partition" else {source.kind: {}}
    for kind, settings in kinds.items():
        data = {
            "source": source,
            **({"partition": {"kind": kind, **settings}} if component != "source" else {}),
        }
        given = config(**data)
        again = from_mapping(yaml_text.load(to_yaml(given)))
        assert again == given
        assert getattr(again.data, component).kind == kind


@pytest.mark.parametrize("family", ["data source", "partition"])
def test_component_and_its_fields_are_documented(family):
    for kind, component in FAMILIES[family].all_kinds().items():
        texts = catalogue.field_texts(component)
        assert catalogue.summary(component), kind
        assert set(component.model_fields) <= set(texts), kind
        assert all(texts.values()), kind


@pytest.fixture(scope="module")
def pool():
    """16 tasks of 100 rows in 8 categories; clients share tasks; every row has a split."""
    number = np.arange(1600)
    rows = [
        {
            "input": f"input {n}",
            "target": "x",
            "task": f"t{n // 100:02d}",
            "category": f"c{n // 200}",
            "client": f"user {n % 13:02d}",
            "split": ("train", "train", "train", "validation", "test")[n // 13 % 5],
        }
        for n in number.tolist()
    ]
    return read_rows(rows, "rows")


def settings_of(kind):
    if kind == "flwr":
        pytest.importorskip("flwr_datasets", reason="needs flwr-datasets: pip install '.[partitioners]'")
    examples = None if kind in GIVEN else {"train": 12, "validation": 4, "test": 4}
    clients = {"train": 5, "validation": 1, "test": 2}
    one = {"kind": kind, **PARTITIONS[kind]}
    return config(clients=clients, examples=examples, unseen_tasks=2, partition=one).data


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("rows", "indptr", "groups")
    )


@pytest.mark.parametrize("kind", PARTITIONS)
def test_partition_gives_every_row_once_by_seed(kind, pool):
    settings = settings_of(kind)
    made = partition(pool, settings, 0)
    assert len(np.unique(made.rows)) == len(made.rows)
    tasks = np.array(pool["task"].to_pylist())
    assert not set(tasks[made.rows]) & set(tasks[made.unseen])
    assert len(made.unseen)
    names = made.clients.to_pylist()
    assert names == sorted(set(names))
    assert np.bincount(made.groups).tolist() == [5, 1, 2]
    assert same(made, partition(pool, settings, 0))
    assert not same(made, partition(pool, settings, 1))


def test_levels_use_the_same_rows_and_sizes(pool):
    made = {kind: partition(pool, settings_of(kind), 0) for kind in MADE}
    for kind, one in made.items():
        assert (np.diff(one.indptr).reshape(-1, 3) == [12, 4, 4]).all(), kind
        for group in range(3):
            owned, first = (np.sort(rows_of(each, group)) for each in (one, made["task"]))
            assert owned.tolist() == first.tolist(), kind


def rows_of(assignment, group):
    client = np.repeat(np.arange(len(assignment.groups)).repeat(3), np.diff(assignment.indptr))
    return assignment.rows[assignment.groups[client] == group]


class Broken:
    """Components that return invalid values; defined when a test uses them."""

    @staticmethod
    def level(returns):
        class Bad(LevelSettings, kind="bad-level"):
            """Broken."""

            def assign(self, stock, generator):
                return returns(stock)

        return Bad()

    @staticmethod
    def given(returns):
        class Bad(GivenClients, kind="bad-clients"):
            """Broken."""

            def clients(self, pool, split, hidden, settings, seed):
                return returns(pool, split, hidden)

        return Bad()

    @staticmethod
    def source(returns):
        class Bad(SourceSettings, kind="bad-source"):
            """Broken."""

            def read(self, seed, reading):
                return returns()

        return Bad()


ME = r"test_sources_partitions\.py:\d+"


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda stock: np.zeros(3, int), r"assign\(\) returned int64 \[3\]"),
        (lambda stock: np.zeros(len(stock.labels)), r"assign\(\) returned float64"),
        (lambda stock: np.full(len(stock.labels), 99), "named the client 99, and clients are 0 to 4"),
        (lambda stock: np.zeros(len(stock.labels), int), r"gave client 0 60 train rows, and its size is 12"),
    ],
)
def test_broken_level_is_named(returns, said, pool):
    settings = settings_of("task").model_copy(update={"partition": Broken.level(returns)})
    with pytest.raises(UserError, match=rf"data.partition.kind: bad-level \(.*{ME}\).*{said}"):
        partition(pool, settings, 0)


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda pool, split, hidden: (["a"], np.zeros(2, int), split), "the rows' clients as"),
        (
            lambda pool, split, hidden: (["b", "a"], np.where(hidden, -1, 0), split),
            "not ascending and distinct",
        ),
        (
            lambda pool, split, hidden: (["a"], np.where(hidden, -1, 7), split),
            "the client 7, and there are 1",
        ),
        (lambda pool, split, hidden: (["a"], np.zeros(len(split), int), split), "rows that are hidden"),
        (lambda pool, split, hidden: (["a"], np.where(hidden, -1, 0), split + 5), "splits other than"),
    ],
)
def test_broken_given_clients_are_named(returns, said, pool):
    settings = settings_of("natural").model_copy(update={"partition": Broken.given(returns)})
    with pytest.raises(UserError, match=rf"data.partition.kind: bad-clients \(.*{ME}\).*{said}"):
        partition(pool, settings, 0)


def one_row(**changes):
    row = {"task": ["t"], "category": [""], "definition": [""], "positives": [[]], "input": ["a"]}
    row |= {"targets": [["b"]], "split": [None], "client": [None]}
    return pa.table(row | changes, schema=POOL_SCHEMA)


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda: [{"input": "a"}], r"bad-source \(.*{ME}\): read\(\) returned list, not a table"),
        (lambda: pa.table({"input": ["a"]}), r"bad-source \(.*{ME}\): read\(\) returned columns input"),
        (lambda: 1 / 0, r"bad-source \(.*{ME}\): read\(\) failed: ZeroDivisionError: .*{ME}"),
        (lambda: POOL_SCHEMA.empty_table(), r"bad-source \(.*{ME}\): read\(\) returned no rows"),
        (lambda: one_row(targets=[[""]]), r"bad-source: data row 1, target: the target is empty"),
    ],
)
def test_broken_source_is_named(returns, said):
    with pytest.raises(UserError, match=said.replace("{ME}", ME)):
        read_source(Broken.source(returns), 0)


def test_plugin_source_is_identified_by_rows():
    """Also if it is redefined, as in a notebook, with the same settings and other rows."""
    first = fingerprint(Broken.source(one_row), 0)
    assert first == fingerprint(Broken.source(lambda: one_row()), 0)
    assert first != fingerprint(Broken.source(lambda: one_row(input=["other"])), 0)


def test_redefined_partition_has_other_code():
    first, again, other = (
        plugins.code_of(type(Broken.level(returns)))
        for returns in (lambda stock: stock, lambda stock: stock, lambda stock: None)
    )
    assert first == again == other, "what the method calls is not its code"
    assert first != plugins.code_of(Reversed)


def test_unknown_kinds_suggest_registered_ones():
    for section, family, near in (
        ("source", "data source", "lexicon"),
        ("partition", "partition", "natural"),
    ):
        with pytest.raises(
            UserError, match=rf"'data.{section}.kind': there is no {family} '{near}s' \(did you mean '{near}'"
        ):
            config(**{section: {"kind": f"{near}s"}})
    with pytest.raises(UserError, match=r"'data.source.kind' is missing"):
        config(source={"instances": 3})
