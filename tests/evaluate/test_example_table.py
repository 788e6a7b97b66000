"""Records of examples: collected, written, averaged; and the worst examples."""

import polars as pl
import pytest

from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_parquet
from fedprofit.evaluate.examples import Recorder, gathered, to_examples, without_names
from fedprofit.evaluate.hyperparameters import ScoredSetting
from fedprofit.evaluate.records import ClientRecord, Record
from fedprofit.evaluate.results import Condition, write_frame
from fedprofit.evaluate.worst import Texts, worst_examples
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.tables import write_stage_examples

LAST = Condition("federated", "avg", "last", step=3)
BEST = Condition("federated", "avg", "best", step=3)
TUNED = Condition("personalized", "avg", "tune", "last", alpha=1.0, step=2)
SETTINGS = [
    ScoredSetting(one.condition, one.algorithm, one.setting, one.start) for one in (LAST, BEST, TUNED)
]


def record(row, loss, rouge, tokens=2, answer="x"):
    return Record(row, "job", loss, tokens, answer, {} if rouge is None else {"rouge_l": rouge})


def records():
    """Two clients with two examples each, and one example that all share."""
    found = []
    for condition, better in ((LAST, 0.0), (TUNED, 10.0)):
        for number, client in enumerate(("ann", "bob")):
            for row in (0, 1):
                one = record(10 * number + row, 4.0 + row - better / 10, 50.0 * row + better, tokens=1 + row)
                found.append(ClientRecord(condition, client, "local", one))
    found.append(ClientRecord(LAST, "", "global", record(5, 6.0, 30.0)))
    return found


def test_recorder_repeats_a_condition_with_the_same_parameters():
    recorder = Recorder()
    recorder.add(records())
    recorder.repeat(LAST, BEST)
    found = recorder.take()
    best = found.filter(pl.col("setting") == "best")
    assert best.drop("setting").equals(found.filter(pl.col("setting") == "last").drop("setting"))
    assert recorder.take() is None, "they are taken once"


def test_points_without_text_have_no_scores():
    early = ClientRecord(Condition("personalized", "avg", "tune", "last", 1.0, 1), "ann", "local",
                         record(0, 4.0, None, answer=None))  # fmt: skip
    recorder = Recorder()
    recorder.add([early])
    recorder.add(records())
    examples = without_names(gathered([recorder.take()], SETTINGS))
    first = examples.filter(pl.col("step") == 1).row(0, named=True)
    assert (first["answer"], first["score.rouge_l"], first["loss"]) == (None, None, 4.0)


def test_damaged_examples_are_noticed(tmp_path):
    folder, recorder = RunFolder(tmp_path), Recorder()
    recorder.add(records())
    write_stage_examples(folder, "base", recorder)
    path = folder.stage_examples("base")
    assert len(read_parquet(path, "")) == 9
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"base\.parquet: is damaged"):
        read_parquet(path, "")


def worst(given, metrics=("rouge_l", "loss"), most=8):
    examples = gathered([to_examples(given)], SETTINGS)
    return worst_examples(examples, list(metrics), lambda row: Texts(f"input {row}", "wanted"), most)


def test_worst_examples_come_first_with_every_answer():
    found = worst(records(), most=2)
    assert found.select("rank", "client", "example").unique(maintain_order=True).rows() == [
        (1, "ann", 0),
        (2, "bob", 10),
    ]
    assert found["condition"].to_list() == ["federated", "personalized"] * 2
    assert found["value"].to_list() == [0.0, 10.0] * 2
    assert set(found["mean"]) == {10.0}, "over the personalized methods"
    assert found["input"][0] == "input 0"


def test_worst_examples_by_loss_are_the_largest():
    found = worst(records(), metrics=["loss"], most=1)
    assert (found["example"][0], found["metric"][0]) == (0, "loss")
    assert found["value"].to_list() == [4.0, 3.0], "nats per target token"


def test_worst_examples_put_nan_first():
    broken = ClientRecord(
        TUNED, "bob", "local", Record(99, "job", float("nan"), 1, "", {"rouge_l": float("nan")})
    )
    assert worst([*records(), broken], most=1)["example"][0] == 99


def test_examples_without_a_row_are_kept_apart(tmp_path):
    given = [ClientRecord(TUNED, "ann", "local", record(-1, loss, 1.0)) for loss in (1.0, 2.0)]
    examples = without_names(gathered([to_examples(given)], SETTINGS))
    assert examples["loss"].to_list() == [1.0, 2.0]
    write_frame(tmp_path / "examples.parquet", examples)
    assert read_parquet(tmp_path / "examples.parquet", "").equals(examples)
