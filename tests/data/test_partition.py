import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.data.deal import apportion, deal, fill
from fedprofit.data.partition import Assignment, heterogeneity, partition, task_mix
from fedprofit.data.pool import POOL_SCHEMA
from fedprofit.data.settings import DataConfig
from fedprofit.data.splits import make_splits

LEVELS: list[dict[str, Any]] = [
    {"kind": "task"},
    {"kind": "tasks", "tasks_per_client": 2},
    {"kind": "category"},
    {"kind": "dirichlet", "alpha": 1.0},
    {"kind": "dirichlet", "alpha": 1.0, "over": "category"},
    {"kind": "iid"},
]


def config(**data: Any) -> DataConfig:
    data = {"source": {"kind": "lexicon"}, **data}
    run = {"name": "t", "data": data, "training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]}}
    return from_mapping(run).data


def groups(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


def make_pool(tasks: int = 16, rows: int = 100, client: Any = None, split: str = "cycle") -> pa.Table:
    """Tasks in pairs of a category; `split` assigns 60, 20 and 20 percent of each task's rows."""
    count = tasks * rows
    number = np.arange(count)
    cycle = np.array(["train", "train", "train", "validation", "test"])
    text = pa.array([f"input {n}" for n in number])
    columns = {
        "task": [f"t{n // rows:02d}" for n in number],
        "category": [f"c{n // rows // 2:02d}" for n in number],
        "definition": [""] * count,
        "positives": [[]] * count,
        "input": text,
        "targets": pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), text),
        "split": cycle[number % 5].tolist() if split == "cycle" else [None] * count,
        "client": [None] * count if client is None else [client(n) for n in number],
    }
    return pa.table(columns, schema=POOL_SCHEMA)


def rows_of(assignment: Assignment, client: int, split: int) -> np.ndarray[Any, Any]:
    start, stop = assignment.indptr[3 * client + split : 3 * client + split + 2]
    return assignment.rows[start:stop]


def check_sound(pool: pa.Table, assignment: Assignment) -> None:
    """Check that no row is owned twice, unseen rows are disjoint, and rows are in their own split."""
    names = assignment.clients.to_pylist()
    assert names == sorted(set(names))
    assert len(set(assignment.rows.tolist())) == len(assignment.rows)
    assert not set(assignment.rows.tolist()) & set(assignment.unseen.tolist())
    tasks = np.array(pool["task"].to_pylist())
    assert not set(tasks[assignment.rows]) & set(tasks[assignment.unseen])
    assert assignment.indptr[-1] == len(assignment.rows)
    assert len(assignment.indptr) == 3 * len(names) + 1


MADE = {"clients": groups(12, 3, 4), "examples": groups(20, 6, 6), "unseen_tasks": 2}


@pytest.fixture(scope="module")
def pool() -> pa.Table:
    return make_pool()


def test_levels_differ_only_in_owners_of_rows(pool: pa.Table) -> None:
    made = [partition(pool, config(**MADE, partition=level), 3) for level in LEVELS]
    splits = np.array(pool["split"].to_pylist())
    for one in made:
        check_sound(pool, one)
        assert one.clients.to_pylist() == [f"client-{n:04d}" for n in range(19)]
        assert one.groups.tolist() == [0] * 12 + [1] * 3 + [2] * 4
        assert (np.diff(one.indptr).reshape(-1, 3) == [20, 6, 6]).all()
        for group in range(3):  # the same rows for each group of clients and each split
            for s, name in enumerate(("train", "validation", "test")):
                mine, first = (
                    np.sort(np.concatenate([rows_of(a, c, s) for c in np.flatnonzero(a.groups == group)]))
                    for a in (one, made[0])
                )
                assert mine.tolist() == first.tolist()
                assert set(splits[mine]) == {name}
        assert one.unseen.tolist() == made[0].unseen.tolist()
    assert len(made[0].unseen) == 2 * 20


def test_heterogeneity_orders_the_levels(pool: pa.Table) -> None:
    def distance(**level: Any) -> float:
        settings = {"clients": groups(16, 0, 0), "examples": groups(60, 20, 20), "partition": level}
        return float(
            np.mean(
                [heterogeneity(task_mix(pool, partition(pool, config(**settings), s))[1]) for s in range(3)]
            )
        )

    ordered = [
        distance(kind="task"),
        distance(kind="tasks", tasks_per_client=2),
        distance(kind="dirichlet", alpha=1.0),
        distance(kind="dirichlet", alpha=10.0),
        distance(kind="iid"),
    ]
    assert ordered[0] == pytest.approx(15 / 16)
    assert ordered[1] == pytest.approx(14 / 16)
    assert all(more > less + 0.02 for more, less in pairwise(ordered)), ordered


def test_task_and_tasks_and_category_are_exact(pool: pa.Table) -> None:
    settings = {"clients": groups(16, 4, 4), "examples": groups(15, 5, 5)}
    tasks, counts = task_mix(pool, partition(pool, config(**settings, partition={"kind": "task"}), 0))
    assert tasks == sorted(set(pool["task"].to_pylist()))
    assert sorted(np.argmax(counts[:16], axis=1)) == list(range(16))
    assert (counts.max(axis=1) == 15).all()
    # Test clients' tasks are train clients' tasks, starting with the first of the order.
    assert np.argmax(counts[20:], axis=1).tolist() == np.argmax(counts[:4], axis=1).tolist()
    made = partition(pool, config(**settings, partition={"kind": "tasks", "tasks_per_client": 3}), 0)
    _, counts = task_mix(pool, made)
    assert (np.sort(counts, axis=1)[:, -3:] == 5).all()
    of = np.array(pool["category"].to_pylist())
    made = partition(pool, config(**settings, partition={"kind": "category"}), 0)
    for client in range(24):
        assert len({of[row] for s in range(3) for row in rows_of(made, client, s)}) == 1


def test_same_mix_in_the_three_splits() -> None:
    pool = make_pool(tasks=4, rows=2000)
    level = {"kind": "dirichlet", "alpha": 0.3}
    made = partition(
        pool, config(clients=groups(4, 0, 0), examples=groups(300, 300, 300), partition=level), 1
    )
    tasks = np.array(pool["task"].to_pylist())
    for client in range(4):
        most = [
            max(set(part), key=part.count)
            for s in range(3)
            if (part := tasks[rows_of(made, client, s)].tolist())
        ]
        assert len(set(most)) == 1


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: "-".join(str(v) for v in level.values()))
def test_partition_is_determined_by_the_seed(pool: pa.Table, level: dict[str, Any]) -> None:
    first, again, other = (partition(pool, config(**MADE, partition=level), seed) for seed in (0, 0, 1))
    assert first.rows.tolist() == again.rows.tolist()
    assert first.indptr.tolist() == again.indptr.tolist()
    assert first.rows.tolist() != other.rows.tolist()


def test_quantity_skew_keeps_the_total_and_the_level(pool: pa.Table) -> None:
    made = {}
    for kind in ("task", "iid"):
        level = {"kind": kind, "quantity_skew": 0.8}
        settings = config(clients=groups(14, 0, 2), examples=groups(12, 4, 3), partition=level)
        made[kind] = partition(pool, settings, 0)
        sizes = np.diff(made[kind].indptr).reshape(-1, 3)
        assert sizes[:14].sum(axis=0).tolist() == [14 * 12, 14 * 4, 14 * 3]
        assert sizes.min() >= 1
        assert len(set(sizes[:14, 0].tolist())) > 5
    assert made["task"].indptr.tolist() == made["iid"].indptr.tolist()
    assert np.sort(made["task"].rows).tolist() == np.sort(made["iid"].rows).tolist()
    assert (np.count_nonzero(task_mix(pool, made["task"])[1], axis=1) == 1).all()


def test_without_examples_clients_share_their_task(pool: pa.Table) -> None:
    made = partition(pool, config(clients=groups(16, 0, 16), examples=None), 0)
    assert (np.diff(made.indptr).reshape(-1, 3) == [30, 10, 10]).all()
    check_sound(pool, made)


@pytest.mark.parametrize("kind", ["task", "iid"])
def test_hold_out_can_be_limited_to_scored_clients(pool: pa.Table, kind: str) -> None:
    level = {"kind": kind, "hold_out": "scored"}
    # Sixteen tasks with 20 test rows each; the three groups together need 30 of some.
    settings = config(clients=groups(16, 4, 16), examples=groups(10, 5, 10), partition=level)
    sizes = np.diff(partition(pool, settings, 0).indptr).reshape(-1, 3)
    assert (sizes[:16] == [10, 0, 0]).all()
    assert (sizes[20:] == [10, 5, 10]).all()
    check_sound(pool, partition(pool, settings, 0))
    with pytest.raises(UserError, match="test rows"):
        partition(pool, config(clients=groups(16, 4, 16), examples=groups(10, 5, 10)), 0)
    shared = partition(pool, config(clients=groups(16, 0, 16), examples=None, partition=level), 0)
    sizes = np.diff(shared.indptr).reshape(-1, 3)
    assert (sizes[:16] == [30, 0, 0]).all()
    assert (sizes[16:] == [30, 20, 20]).all()


def test_unseen_tasks_by_name_and_by_number(pool: pa.Table) -> None:
    settings = {"clients": groups(4, 0, 0), "examples": groups(9, 3, 3)}
    made = partition(pool, config(**settings, unseen_tasks=["t03", "t09"]), 0)
    tasks = np.array(pool["task"].to_pylist())
    assert set(tasks[made.unseen]) == {"t03", "t09"}
    assert set(pool["split"].take(pa.array(made.unseen)).to_pylist()) == {"test"}
    chosen = {
        tuple(set(tasks[partition(pool, config(**settings, unseen_tasks=1), s).unseen])) for s in range(8)
    }
    assert len(chosen) > 2


def test_natural_clients_are_the_sources_own() -> None:
    pool = make_pool(tasks=4, rows=100, client=lambda n: f"user {n % 13:02d}")
    settings = config(clients=groups(6, 2, 3), examples=None, partition={"kind": "natural"})
    made = partition(pool, settings, 0)
    check_sound(pool, made)
    assert np.bincount(made.groups).tolist() == [6, 2, 3]
    owner = np.array(pool["client"].to_pylist())
    split = np.array(pool["split"].to_pylist())
    for c, name in enumerate(made.clients.to_pylist()):
        for s, part in enumerate(("train", "validation", "test")):
            assert rows_of(made, c, s).tolist() == np.flatnonzero((owner == name) & (split == part)).tolist()
    capped = partition(
        pool, config(clients=groups(6, 2, 3), examples=groups(5, 1, 2), partition={"kind": "natural"}), 0
    )
    assert (np.diff(capped.indptr).reshape(-1, 3) == [5, 1, 2]).all()
    assert set(capped.rows.tolist()) < set(made.rows.tolist())


def test_natural_clients_join_groups_that_fit_rows() -> None:
    def owner(n: int) -> str:
        """Users 8 to 11 have no test rows, user 12 has only validation rows."""
        return "user 12" if n % 5 == 3 and n % 7 == 0 else f"user {n % (8 if n % 5 == 4 else 12):02d}"

    pool = make_pool(tasks=4, rows=200, client=owner)
    settings = config(clients=groups(6, 2, 3), examples=None, partition={"kind": "natural"})
    trained = set()
    for seed in range(12):
        made = partition(pool, settings, seed)
        check_sound(pool, made)
        sizes = np.diff(made.indptr).reshape(-1, 3)
        assert (sizes[:, 0] > 0).all()
        assert (sizes[made.groups > 0, 2] > 0).all()
        trained |= set(np.array(made.clients.to_pylist())[made.groups == 0])
    assert trained == {f"user {number:02d}" for number in range(12)}, "any may train"


def test_natural_with_a_hundred_thousand_clients() -> None:
    count = 600_000
    number = np.arange(count)
    text = pa.array(number).cast(pa.string())
    columns = {
        "task": pa.array(number % 7).cast(pa.string()),
        "category": pa.repeat("", count),
        "definition": pa.repeat("", count),
        "positives": pa.nulls(count, POOL_SCHEMA.field("positives").type),
        "input": text,
        "targets": pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), text),
        "split": pa.nulls(count, pa.string()),
        "client": pa.array(number % 100_000).cast(pa.string()),
    }
    settings = config(clients=groups(80_000, 10_000, 9_000), examples=None, partition={"kind": "natural"})
    made = partition(pa.table(columns, schema=POOL_SCHEMA), settings, 0)
    assert len(made.clients) == 99_000
    assert (np.diff(made.indptr).reshape(-1, 3) == [4, 1, 1]).all()


def test_splits_are_by_task_and_keep_duplicates() -> None:
    pool = make_pool(tasks=3, rows=50, split="none")
    repeated = pa.array([f"input {n // 2 if n < 50 else n}" for n in range(150)])
    pool = pool.set_column(pool.schema.get_field_index("input"), "input", repeated)
    split = make_splits(pool, 0, True).reshape(3, 50)
    assert [np.bincount(part, minlength=3).tolist() for part in split] == [[30, 10, 10]] * 3
    assert (split[0, ::2] == split[0, 1::2]).all()
    assert split[1].tolist() != split[2].tolist()
    # A task's splits do not depend on other tasks.
    assert make_splits(pool.slice(100), 0, True).tolist() == split[2].tolist()
    for rows, counts in ((1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1])):
        assert np.bincount(make_splits(pool.slice(100, rows), 0, True), minlength=3).tolist() == counts


def test_missing_splits_are_cut_from_train() -> None:
    pool = make_pool(tasks=1, rows=50)
    for names, counts in (
        (["train", "test"], [24, 6, 10]),
        (["train"], [18, 6, 6]),
        (["train", "validation"], [24, 10, 6]),
    ):
        keep = np.isin(pool["split"].to_pylist(), names)
        named = pool.filter(pa.array(keep))
        split = make_splits(named, 0, True)
        assert np.bincount(split, minlength=3).tolist() == [named.num_rows - sum(counts[1:]), *counts[1:]]


def test_flower_partitioners(pool: pa.Table) -> None:
    pytest.importorskip("flwr_datasets", reason="needs flwr-datasets: pip install '.[partitioners]'")
    level = {"kind": "flwr", "partitioner": "DirichletPartitioner", "options": {"alpha": 0.2}}
    settings = config(clients=groups(5, 1, 2), examples=None, unseen_tasks=1, partition=level)
    made, again = partition(pool, settings, 0), partition(pool, settings, 0)
    check_sound(pool, made)
    assert made.rows.tolist() == again.rows.tolist()
    assert len(made.rows) == 15 * 60  # the train rows of the seen tasks, each owned once
    assert set(pool["split"].take(pa.array(made.rows)).to_pylist()) == {"train"}
    assert np.bincount(made.groups).tolist() == [5, 1, 2]
    sizes = np.diff(made.indptr).reshape(-1, 3)
    assert np.allclose(sizes[:, 2] / sizes.sum(axis=1), 0.2, atol=0.03)
    even = config(
        clients=groups(5, 1, 2), examples=None, partition={"kind": "flwr", "partitioner": "IidPartitioner"}
    )
    near = heterogeneity(task_mix(pool, partition(pool, even, 0))[1])
    assert near < heterogeneity(task_mix(pool, made)[1]) - 0.2


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"partitioner": "DirichletPartitoner"}, "did you mean 'DirichletPartitioner'"),
        (
            {"partitioner": "DirichletPartitioner", "options": {"alhpa": 1}},
            "takes no 'alhpa'; did you mean 'alpha'",
        ),
        ({"partitioner": "DirichletPartitioner"}, "alpha"),
        (
            {"partitioner": "DirichletPartitioner", "options": {"alpha": -1}},
            "does not accept|cannot partition",
        ),
        (
            {"partitioner": "NaturalIdPartitioner", "options": {"partition_by": "category"}},
            "50 together, and there are 8",
        ),
    ],
)
def test_flower_problems(pool: pa.Table, level: dict[str, Any], message: str) -> None:
    pytest.importorskip("flwr_datasets", reason="needs flwr-datasets: pip install '.[partitioners]'")
    with pytest.raises(UserError, match=message):
        partition(pool, config(clients=groups(50, 0, 0), partition={"kind": "flwr", **level}), 0)


def test_flower_is_optional(pool: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(UserError, match=r"pip install 'fedprofit\[partitioners\]'"):
        partition(pool, config(partition={"kind": "flwr", "partitioner": "IidPartitioner"}), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": groups(0, 0, 0)}, "asks for no clients"),
        ({"examples": groups(61, 1, 1)}, r"has 60 train rows, and 183 are needed .*data.examples.train"),
        ({"examples": groups(10, 10, 1)}, r"has 20 validation rows, and 30 are needed"),
        ({"examples": groups(0, 1, 1)}, "client 'client-0000' .a train client. has no train rows"),
        ({"examples": groups(1, 1, 0)}, "client 'client-0008' .a validation client. has no test rows"),
        ({"clients": groups(61, 0, 0), "examples": None, "unseen_tasks": 15}, "has 60 train rows, and 61"),
        ({"unseen_tasks": 16}, "unseen_tasks is 16, and the source has 16 tasks"),
        ({"unseen_tasks": ["t99"]}, "no task 't99' .*did you mean"),
        (
            {"partition": {"kind": "tasks", "tasks_per_client": 17}},
            "tasks_per_client is 17, and there are 16",
        ),
        ({"partition": {"kind": "natural"}}, r"1600 of its 1600 rows name none"),
        (
            {"partition": {"kind": "natural", "hold_out": "scored"}},
            "unknown key 'data.partition.hold_out'",
        ),
        (
            {"partition": {"kind": "natural", "quantity_skew": 1.0}},
            "unknown key 'data.partition.quantity_skew'",
        ),
        (
            {"partition": {"quantity_skew": 1.0}, "examples": None},
            "quantity_skew is 1.0 and data.examples is null",
        ),
        ({"partition": {"quantity_skew": 3.0}, "examples": groups(15, 4, 4)}, "data.partition.quantity_skew"),
    ],
)
def test_problems_are_named(pool: pa.Table, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        partition(pool, config(**settings), 0)


def test_natural_problems_are_named() -> None:
    pool = make_pool(tasks=1, rows=50, client=lambda n: "few" if n == 0 else f"many {n % 2}")
    natural = {"partition": {"kind": "natural"}, "examples": None}
    with pytest.raises(
        UserError, match="2 train, 1 validation and 1 test clients, 4 together, and there are 3"
    ):
        partition(pool, config(clients=groups(2, 1, 1), **natural), 0)
    with pytest.raises(UserError, match=r"client 'few' \(a test client\) has no test rows; 1 of 3"):
        partition(pool, config(clients=groups(0, 0, 3), **natural), 0)
    without = make_pool(tasks=1, rows=10)
    empty = without.set_column(1, "category", pa.array([""] * 10))
    with pytest.raises(UserError, match="the source names none"):
        partition(empty, config(partition={"kind": "category"}), 0)


def test_deal_follows_the_mix_while_stock_lasts() -> None:
    generator = np.random.default_rng(0)
    mixes = np.array([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]])
    got = deal(np.array([9000, 9000, 9000]), mixes, np.array([5000, 2500]), generator)
    assert np.allclose(got / got.sum(axis=1, keepdims=True), mixes, atol=0.03)
    # The first needs a scarce class: it gets all of it, then the rest of its mix, then other classes.
    got = deal(np.array([3, 4, 13]), np.array([[1.0, 1e-9, 0.0]]), np.array([20]), generator)
    assert got.tolist() == [[3, 4, 13]]
    got = fill(np.array([2, 2]), np.array([[2, 0], [1, 0]]), np.array([2, 1]), generator)
    assert got.sum(axis=1).tolist() == [2, 1]
    assert got[:, 0].sum() == 2


def test_apportion_is_within_one_of_the_exact_share() -> None:
    weights = np.random.default_rng(0).random(40)
    for total in (0, 1, 39, 1000):
        parts = apportion(weights, total)
        assert parts.sum() == total
        assert (np.abs(parts - weights / weights.sum() * total) < 1).all()


def test_heterogeneity_is_the_mean_total_variation_distance() -> None:
    counts = np.array([[6, 2, 0], [1, 1, 2], [0, 0, 0]])
    pooled = np.array([7, 3, 2]) / 12
    by_hand = [
        sum(abs(n / sum(row) - p) for n, p in zip(row, pooled, strict=True)) / 2
        for row in counts.tolist()[:2]
    ]
    assert heterogeneity(counts) == pytest.approx(sum(by_hand) / 2)


def test_heterogeneity_of_sparse_counts_is_that_of_all():
    counts = np.random.default_rng(0).poisson(0.3, (200, 30))
    mixes = counts[counts.any(1)] / counts[counts.any(1)].sum(1, keepdims=True)
    distances = 0.5 * np.abs(mixes - counts.sum(0) / counts.sum()).sum(1)
    for form in (counts, csr_array(counts)):
        assert heterogeneity(form) == pytest.approx(distances.mean(), rel=1e-12)


def test_duplicates_of_two_clients_share_a_split() -> None:
    """A table with clients and no splits, whose rows are dealt; each input occurs twice."""
    inputs = [f"question {n}" for n in range(60)] * 2
    columns = {name: [""] * 120 for name in ("category", "definition")}
    columns |= {"input": inputs, "task": ["t"] * 120, "client": ["ann"] * 60 + ["bob"] * 60}
    rows = {name: pa.array(columns[name], POOL_SCHEMA.field(name).type) for name in columns}
    rows |= {"split": pa.nulls(120, POOL_SCHEMA.field("split").type)}
    for name, value in (("targets", ["x"]), ("positives", [])):
        rows[name] = pa.array([value] * 120, POOL_SCHEMA.field(name).type)
    pool = pa.table({name: rows[name] for name in POOL_SCHEMA.names})
    dealt = config(clients=groups(2, 0, 2), examples=None, unseen_tasks=0, partition={"kind": "iid"})
    made = partition(pool, dealt, 0)
    split_of = np.repeat(np.arange(len(made.indptr) - 1) % 3, np.diff(made.indptr))
    train, test = ({inputs[row] for row in made.rows[split_of == split]} for split in (0, 2))
    assert train
    assert test
    assert not train & test


def test_flower_partitions_all_train_rows(pool: pa.Table) -> None:
    """All rows of a source without other splits are partitioned, and each part is split once."""
    pytest.importorskip("flwr_datasets", reason="needs flwr-datasets: pip install '.[partitioners]'")
    place = pool.schema.get_field_index("split")
    trained = pool.set_column(place, "split", pa.array(["train"] * len(pool), pool.schema.field(place).type))
    settings = config(
        clients=groups(5, 1, 2), examples=None, unseen_tasks=0,
        partition={"kind": "flwr", "partitioner": "IidPartitioner"},
    )  # fmt: skip
    assert len(partition(trained, settings, 0).rows) == len(pool)
