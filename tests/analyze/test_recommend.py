"""Recommendations and comparisons of runs, on synthetic tables with known results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from test_claims import others_of, plain, table
from tiny_run import call, tiny_config

import fedprofit
from fedprofit.analyze.compare import changed_origin, compare
from fedprofit.analyze.recommend import Limit, recommend
from fedprofit.analyze.tables import Tables, open_tables
from fedprofit.core.errors import UserError
from fedprofit.evaluate.results import write_frame
from fedprofit.runs.environment import processor

PLACE = ["heterogeneity"]


def lost(level, algorithm, rate):
    """FedSGD loses 2 more than FedAvg, the large rate 2 more than the small, tasks 1 more than iid."""
    return 4 + 2 * (algorithm == "fedsgd") + 2 * (rate > 0.05) + (level == "task")


def tables(validation=lost, test=lost, path="here", **more):
    chooses = table(plain(validation), noise=0.01, **more)
    chooses = chooses.with_columns(client=pl.concat_str(pl.lit("v"), "client"))
    return Tables(Path(path), "made", True, PLACE, table(plain(test), noise=0.01, **more), chooses, None)


def test_recommend_selects_best_local_score_within_limit():
    # All gain 5 at step 2 and 10 at step 4; half is lost at step 2.
    for one, most in zip(recommend(tables(), "rouge_l", Limit(most_forgotten=4.5)), (4.5, 4.5), strict=True):
        level = one.axes["heterogeneity"]
        allowed = {"task": ("rate0.01", 2), "iid": ("rate0.01", 4)}[level]  # 5 and 4 are lost in the end
        assert one.setting["algorithm"] in ("fedavg-adam", "fedsgd")
        assert one.setting["step"] == allowed[1], level
        assert one.expected["forgetting"].value <= most
        assert one.holds
    _, iid = recommend(tables(), "rouge_l", Limit(most_forgotten=4.5))
    assert (iid.setting["algorithm"], iid.setting["setting"]) == ("fedavg-adam", "rate0.01")
    assert iid.values == {"rate": 0.01, "steps": 4, "λ": 0, "α": 1}
    assert iid.expected["local"].value == pytest.approx(30)
    assert iid.expected["gain"].value == pytest.approx(10)
    assert iid.expected["forgetting"].value == pytest.approx(4, abs=0.05)
    assert iid.expected["forgetting"].low < 4.01 < iid.expected["forgetting"].high + 0.05
    assert (iid.expected["local"].seeds, iid.expected["local"].clients) == (3, 18)


def test_recommend_is_certain_when_complete_interval_agrees():
    """The test clients lose half a point more than the validation clients: 4.5, give or take 0.01."""
    found = tables(test=lambda *place: lost(*place) + 0.5)
    for most, holds, certain in ((4.4, False, True), (4.6, True, True)):
        _, iid = recommend(found, "rouge_l", Limit(most_forgotten=most))
        assert (iid.setting["setting"], iid.setting["step"]) == ("rate0.01", 4)
        assert (iid.holds, iid.certain) == (holds, certain)
    inside = (iid.tested["forgetting"].low + iid.tested["forgetting"].value) / 2
    _, iid = recommend(found, "rouge_l", Limit(most_forgotten=inside))
    assert (iid.holds, iid.certain) == (False, False)
    _, single = recommend(tables(seeds=1), "rouge_l", Limit(most_forgotten=4.4))
    assert (single.holds, single.certain) == (True, False), "one seed gives no interval"


def test_recommend_selects_least_forgetting_within_limit():
    for one in recommend(tables(), "rouge_l", Limit(least_local=28)):
        assert (one.setting["algorithm"], one.setting["setting"], one.setting["step"]) == (
            "fedavg-adam", "rate0.01", 4,
        )  # fmt: skip
        assert one.within == 4, "four settings reach 30"


def test_recommend_selects_federated_prompt_without_allowed_forgetting():
    for one in recommend(tables(), "rouge_l", Limit(most_forgotten=0)):
        assert one.setting["condition"] == "federated"
        assert one.expected["forgetting"].value == 0


def test_recommend_measures_forgetting_from_best_federated_prompt():
    complete = tables()
    poor = (pl.col("algorithm") == "fedsgd") & (pl.col("scope") == "global")
    value = pl.when(poor).then(pl.col("value") - 7).otherwise(pl.col("value"))  # before as after
    found = Tables(
        complete.path, "made", True, PLACE, complete.results.with_columns(value=value),
        complete.validation.with_columns(value=value), None,
    )  # fmt: skip
    for one in recommend(found, "rouge_l", Limit(most_forgotten=9.5)):
        # FedSGD forgets 6 to 9, and starts 7 lower than FedAvg: only its federated prompt is within.
        assert one.against == "fedavg-adam, federated"
        assert one.setting["algorithm"] == "fedavg-adam"
        assert one.within == 5 + 1
    for one in recommend(found, "rouge_l", Limit(least_local=20)):
        assert one.setting["condition"] == "federated"
        assert one.setting["algorithm"] == "fedavg-adam", "the other has 7 less to begin with"


def test_recommend_counts_best_round_as_one_option():
    def with_best(frame):
        last = frame.filter(pl.col("condition") == "federated")
        best = last.with_columns(
            setting=pl.lit("best"),
            step=4 + 4 * (pl.col("seed") % 2),
            value=pl.when(pl.col("scope") == "global").then(pl.col("value") + 5).otherwise(pl.col("value")),
        )
        return pl.concat([frame, best.select(frame.columns)], how="vertical_relaxed")

    complete = tables()
    found = Tables(
        complete.path, "made", True, PLACE, with_best(complete.results), with_best(complete.validation), None
    )
    for one in recommend(found, "rouge_l", Limit(least_local=20)):
        assert one.options == 12, "two algorithms: last and best round, two rates, two steps"
        assert one.against == "fedavg-adam, federated (best round)"
        assert (one.setting["setting"], one.setting["step"]) == ("best", None)
        assert (one.tested["kept"].seeds, one.tested["kept"].clients) == (3, 18)
        assert one.tested["forgetting"].value == 0


def test_recommend_uses_one_scope_for_both_groups_of_clients():
    """The test clients have others, the validation clients have not: both are judged by global."""
    complete = tables()
    others = others_of(complete.results).with_columns(
        value=pl.when(pl.col("scope").str.starts_with("others")).then(99.0).otherwise(pl.col("value"))
    )
    mixed = replace(complete, results=others)
    found, expected = (list(recommend(one, "rouge_l", Limit(least_local=28))) for one in (mixed, complete))
    assert [one.robustness for one in found] == ["global", "global"]
    assert [one.tested["kept"].value for one in found] == [one.tested["kept"].value for one in expected]
    both = replace(mixed, validation=others_of(complete.validation))
    assert [one.robustness for one in recommend(both, "rouge_l", Limit(least_local=28))] == ["others"] * 2


def test_compare_uses_one_scope_for_both_studies():
    first = tables()
    second = replace(first, path=Path("there"), results=others_of(first.results))
    ignoring = second.results.filter(~pl.col("scope").str.ends_with("_task"))  # of one protocol
    found = compare([first, replace(second, results=ignoring)], "rouge_l")
    assert {one.better["kept"].value for one in found} == {0.0}


def test_recommend_reports_when_test_clients_exceed_limit():
    found = tables(test=lambda *place: 3 + lost(*place))
    for one in recommend(found, "rouge_l", Limit(least_local=28)):
        assert one.tested["forgetting"].value == pytest.approx(one.expected["forgetting"].value + 3, abs=0.05)
    (_, iid) = recommend(found, "rouge_l", Limit(most_forgotten=4.5))
    assert not iid.holds


def test_recommend_skips_settings_without_finite_scores():
    complete = tables()
    best = [one.setting for one in recommend(complete, "rouge_l", Limit(least_local=28))]
    for one in best:
        same = [pl.col(key) == one[key] for key in ("algorithm", "setting", "step")]
        results = complete.results.filter(~pl.all_horizontal(same))
        part = Tables(complete.path, "made", True, PLACE, results, complete.validation, None)
        for other in recommend(part, "rouge_l", Limit(least_local=28)):
            assert other.setting != one
    # A setting that diverged on the validation clients is no option either.
    gone = (
        (pl.col("algorithm") == "fedavg-adam")
        & (pl.col("personalization.client.rate") == 0.01)
        & (pl.col("scope") == "global")
    )
    value = pl.when(gone).then(float("nan")).otherwise(pl.col("value"))
    broken = Tables(
        complete.path,
        "made",
        True,
        PLACE,
        complete.results,
        complete.validation.with_columns(value=value),
        None,
    )
    for other in recommend(broken, "rouge_l", Limit(least_local=28)):
        assert (other.setting["algorithm"], other.setting["personalization.client.rate"]) != (
            "fedavg-adam",
            0.01,
        )


def test_recommend_does_not_select_by_test_clients():
    good = tables()
    other = tables(test=lambda level, algorithm, rate: 30 - lost(level, algorithm, rate))
    settings = [
        [one.setting for one in recommend(found, "rouge_l", Limit(most_forgotten=4.5))]
        for found in (good, other)
    ]
    assert settings[0] == settings[1]


def test_recommend_treats_loss_as_lower_is_better():
    turned = tables()
    losses = [
        frame.with_columns(metric=pl.lit("loss"), value=50 - pl.col("value"))
        for frame in (turned.results, turned.validation)
    ]
    found = Tables(turned.path, "made", True, PLACE, *losses, None)
    for one in recommend(found, "loss", Limit(least_local=22)):
        assert one.expected["local"].value == pytest.approx(20)
        assert one.setting["algorithm"] == "fedavg-adam"


def test_recommend_names_nearest_option_when_none_within():
    with pytest.raises(UserError, match=r"none of 10 options is within the limit. The nearest is .*step 4"):
        list(recommend(tables(), "rouge_l", Limit(least_local=99)))
    # One cell has an option within the limit and is recommended, the other has none.
    lower = (
        pl.when(pl.col("axis.heterogeneity") == "task").then(pl.col("value") - 15).otherwise(pl.col("value"))
    )
    complete = tables()
    found = Tables(
        complete.path, "made", True, PLACE, complete.results.with_columns(value=lower),
        complete.validation.with_columns(value=lower), None,
    )  # fmt: skip
    iid, task = recommend(found, "rouge_l", Limit(least_local=28))
    assert (iid.axes["heterogeneity"], iid.setting["setting"]) == ("iid", "rate0.01")
    assert task.axes["heterogeneity"] == "task"
    assert "heterogeneity task: none of 10 options" in task.reason
    broken = pl.when((pl.col("axis.heterogeneity") == "task") & (pl.col("condition") == "federated")).then(
        float("nan")
    )
    found = Tables(
        complete.path, "made", True, PLACE, complete.results,
        complete.validation.with_columns(value=broken.otherwise(pl.col("value"))), None,
    )  # fmt: skip
    iid, task = recommend(found, "rouge_l", Limit(least_local=28))
    assert "heterogeneity task: no federated prompt has finite scores" in task.reason
    with pytest.raises(UserError, match="finite number"):
        Limit(float("inf"))
    with pytest.raises(UserError, match="either --max-forgetting or --min-local"):
        Limit()
    with pytest.raises(UserError, match="either --max-forgetting or --min-local"):
        Limit(1.0, 2.0)
    without = Tables(Path("here"), "made", True, PLACE, tables().results, None, None)
    with pytest.raises(UserError, match=r"evaluation\.validation=true"):
        list(recommend(without, "rouge_l", Limit(least_local=1)))


def test_compare_pairs_clients():
    first = tables()
    other = tables(test=lambda level, algorithm, rate: lost(level, algorithm, rate) - 2)
    found = compare([first, other], "rouge_l")
    assert {(one.axes["heterogeneity"], one.condition) for one in found} == {
        (level, name)
        for level in ("task", "iid")
        for algorithm in ("fedavg-adam", "fedsgd")
        for name in [
            f"{algorithm}, federated",
            *(f"{algorithm}, rate{rate}, step {step}" for rate in (0.01, 0.1) for step in (2, 4)),
        ]
    }
    for one in found:
        kept = {"federated": 0, "step 2": 1, "step 4": 2}[one.condition.split(", ")[-1]]
        estimate = one.better["kept"]
        assert estimate.value == pytest.approx(kept, abs=0.02)
        assert estimate.low <= estimate.value <= estimate.high
        # Both tables have the same noise, so that it cancels in every pair.
        assert estimate.high - estimate.low == pytest.approx(0, abs=1e-6)
        assert one.better["local"].value == 0


def test_compare_pairs_every_other_study_with_first():
    first = tables()
    others = [tables(test=lambda *at, more=more: lost(*at) - more) for more in (2, 3)]
    found = compare([first, *others], "rouge_l")
    last = [one.better["kept"].value for one in found if one.condition == "fedsgd, rate0.1, step 4"]
    assert last == pytest.approx([2, 2, 3, 3], abs=0.02), "two levels, of each other folder"


def test_compare_pairs_federated_prompts_of_different_rounds():
    first = tables()
    later = pl.when(pl.col("condition") == "federated").then(15).otherwise(pl.col("step")).alias("step")
    other = Tables(Path("there"), "made", True, PLACE, first.results.with_columns(later), None, None)
    found = {one.condition for one in compare([first, other], "rouge_l")}
    assert found == {one.condition for one in compare([first, first], "rouge_l")}
    assert "fedsgd, federated" in found


def test_compare_rejects_studies_without_common_conditions():
    first = tables()
    renamed = first.results.with_columns(client=pl.concat_str(pl.lit("x"), "client"))
    with pytest.raises(UserError, match="there: shares no client and condition with here"):
        compare([first, Tables(Path("there"), "made", True, PLACE, renamed, None, None)], "rouge_l")
    with pytest.raises(UserError, match="there is a single run, here is a study over heterogeneity"):
        compare([first, Tables(Path("there"), "made", False, [], first.results, None, None)], "rouge_l")


def test_compare_rejects_different_numbers_of_examples():
    first = tables()
    one = first.results.head(1).with_columns(condition=pl.lit("base"), scope=pl.lit("global"))
    sides = [pl.concat([first.results, one.with_columns(count=pl.lit(n, pl.Int32))]) for n in (96, 48)]
    same, other = (
        Tables(Path(name), "made", True, PLACE, side, None, None)
        for name, side in zip("ab", sides, strict=True)
    )
    assert compare([same, same], "rouge_l")
    unseen = [one.with_columns(scope=pl.lit("unseen"), count=pl.lit(n, pl.Int32)) for n in (32, 16)]
    both = [replace(same, results=pl.concat([same.results, rows])) for rows in unseen]
    assert compare(both, "rouge_l"), "unseen tasks are not compared"
    with pytest.raises(
        UserError, match="b: the global score of client 'c0' is over 48 examples, in a over 96"
    ):
        compare([same, other], "rouge_l")


def test_compare_ignores_axis_order_and_reports_versions():
    frame = tables().results.with_columns(
        pl.col("axis.heterogeneity").alias("axis.shift"), version=pl.lit("0.1.0"), dtype=pl.lit("float32")
    )
    other = frame.with_columns(version=pl.lit("0.2.0"))
    first = Tables(Path("here"), "made", True, ["heterogeneity", "shift"], frame)
    second = Tables(Path("there"), "made", True, ["shift", "heterogeneity"], other)
    found = compare([first, second], "rouge_l")
    assert {(one.axes["heterogeneity"], one.axes["shift"]) for one in found} == {
        ("task", "task"),
        ("iid", "iid"),
    }
    assert all(one.better["kept"].value == 0 for one in found)
    assert changed_origin(first, second) == ["version: 0.1.0 -> 0.2.0"]


def test_compare_leaves_out_losses_of_different_tokenizers(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    results = fedprofit.read_results(other)
    is_loss = pl.col("metric") == "token_loss"
    counted = pl.when(is_loss).then(pl.col("count") + 1).otherwise(pl.col("count")).alias("count")
    write_frame(other / "results.parquet", results.with_columns(counted))
    done = call("compare", runs[0], other, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "not compared by token_loss: " in said
    assert "target tokens" in said
    assert "ROUGE-L, 0 to 100" in said
    assert "Token-weighted loss" not in said
    refused = call("compare", runs[0], other, "--metric", "token_loss", cwd=tmp_path)
    assert refused.returncode == 2
    assert "one tokenizer" in " ".join(refused.stderr.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in a rate."""
    place = tmp_path_factory.mktemp("runs")
    config = tiny_config(place)
    config["data"]["clients"] = {"train": 2, "validation": 2, "test": 2}
    config["evaluation"]["validation"] = True
    folders = []
    for number, rate in enumerate((0.01, 0.5)):
        config["personalization"][0]["client"] = {"rate": rate}
        settings = fedprofit.from_mapping(config)
        folders.append(fedprofit.run(settings, out=place / f"run-{number}").path)
    return folders


def test_commands_compare_and_recommend_runs(runs, tmp_path):
    done = call("compare", *runs, "--out", tmp_path / "table.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "personalization" in done.stdout, "what differs between the configurations"
    page = (tmp_path / "table.md").read_text()
    assert "avg, tune, step 3" in page
    assert page.count("### ") == 4
    names = page.splitlines()[:2]
    assert all("(version " in name and f"float32, {processor()})" in name for name in names)
    first, other = (fedprofit.read_results(run) for run in runs)
    keep = (
        (pl.col("condition") == "personalized") & (pl.col("algorithm") == "avg") & (pl.col("step") == 3)
        & (pl.col("alpha") == 1) & (pl.col("metric") == "loss") & (pl.col("scope") == "global")
    )  # fmt: skip
    change = first.filter(keep)["value"].mean() - other.filter(keep)["value"].mean()
    line = next(line for line in page[page.index("Loss") :].splitlines() if "| avg, tune, step 3 |" in line)
    assert f"{change:+.2f}" in line
    assert "2 clients of 1 seed, too few for an interval" in done.stdout

    done = call("recommend", runs[1], "--max-forgetting", "0.05", "--metric", "loss", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert "ship" in done.stdout
    assert "personalize with rate" in done.stdout or "without personalization" in done.stdout
    written = json.loads((runs[1] / "recommendation.json").read_text())["recommendations"]
    validation = pl.read_parquet(runs[1] / "validation.parquet")
    (one,) = written
    same = [
        pl.col(key).is_null() if value is None else pl.col(key) == value
        for key, value in one["setting"].items()
    ]
    local = validation.filter(*same, pl.col("scope") == "local")["value"].mean()
    assert one["expected"]["local"]["value"] == pytest.approx(local)


def test_commands_name_invalid_folders_and_options(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("compare", runs[0]), "two or more"),
        (("compare", runs[0], tmp_path / "empty"), "contains neither a run nor a study"),
        (("compare", runs[0], tmp_path / "nowhere"), "nowhere: there is no such folder"),
        (("recommend", runs[0]), "either --max-forgetting or --min-local"),
        (("recommend", runs[0], "--min-local", "1", "--metric", "bleu"), "was not scored by 'bleu'"),
    ):
        done = call(*arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        # Without white space: a long path may be wrapped anywhere.
        assert "".join(words.split()) in "".join(done.stderr.split()), arguments


def test_compare_rejects_clients_with_different_data(runs):
    first = open_tables(runs[0])
    moved = first.clients.with_columns(examples=pl.col("examples") + 1)
    other = Tables(Path("moved"), "moved", False, [], first.results, clients=moved)
    with pytest.raises(UserError, match=r"moved: client .* trains on other data than in"):
        compare([first, other], "loss")
    assert compare([first, open_tables(runs[1])], "loss")
