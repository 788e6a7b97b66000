"""The page in a browser: content, filters, escaping, and no errors or network requests."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from test_claims import plain, table
from tiny_run import tiny_config

import fedprofit
from fedprofit.analyze.facts import FACTS
from fedprofit.analyze.tables import open_tables
from fedprofit.analyze.tradeoff import summarize
from fedprofit.evaluate.results import write_frame
from fedprofit.report.page import write_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MARKUP = "<img src=x onerror='window.hacked=1'>"
ENDING = "</script><script>window.hacked=2</script>"


# Three rates for each of two methods; the largest and the middle one are selected.
TRIALS = pl.DataFrame(
    [
        (name, f"{name}-rate{rate}", rate == chosen, abs(rate - chosen), abs(rate - chosen), 100)
        for name, chosen in (("fedavg-adam", 0.1), ("fedsgd", 0.03))
        for rate in (0.01, 0.03, 0.1)
    ],
    ["algorithm", "trial", "chosen", "validation_loss", "best_loss", "tokens"],
    orient="row",
)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. Without one the tests are skipped, except in CI."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium; .ci/run installs it")
        pytest.skip("needs Chromium (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Open a page and record its requests and errors in `problems`."""
    pages = []

    def open_page(path: Path, width=1200, height=900, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.problems = []
        page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda r: page.problems.append(r.url) if not r.url.startswith("file:") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#tradeoff-chart .plot-container")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()


def without_data(problems):
    """Drop the page's embedded icon and downloads."""
    return [text for text in problems if not text.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The report of a synthetic study: two levels, two algorithms, two rates, three seeds."""
    folder = tmp_path_factory.mktemp("study")
    results = table(plain(lambda level, algorithm, rate: 4 + 3 * (rate > 0.05) + (level == "task")))
    base = results.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    both = pl.concat([results, base])
    losses = both.with_columns(metric=pl.lit("loss"), value=5 - pl.col("value") / 10)
    made = pl.concat([both, losses]).with_columns(
        version=pl.lit("0"), model=pl.lit("m"), dtype=pl.lit("float32"), task=pl.lit("")
    )
    # The format of an earlier version, without a table of settings.
    old = made.rename({"personalization.client.rate": "rate", "personalization.proximal": "pull"})
    write_frame(folder / "results.parquet", old.drop(FACTS, strict=False))
    runs = made.select("run", "axis.heterogeneity", "seed").unique(maintain_order=True)
    write_frame(folder / "trials.parquet", runs.join(TRIALS, how="cross"))
    (folder / "study.json").write_text(json.dumps({"name": "made-up", "axes": ["seed", "heterogeneity"]}))
    tables = open_tables(folder)
    write_page(tables, folder / "report.html")
    return tables


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of a run whose client and task names contain markup."""
    base = tmp_path_factory.mktemp("run")
    config = tiny_config(base)
    path = Path(config["data"]["source"]["path"])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    renamed = [line | {"who": MARKUP + line["who"], "job": ENDING + line["job"]} for line in lines]
    path.write_text("\n".join(map(json.dumps, renamed)))
    config["data"]["unseen_tasks"] = 0
    folder = fedprofit.run(fedprofit.from_mapping(config), out=base / "out").path
    write_page(open_tables(folder), folder / "report.html")
    return folder


def cells(page, chart):
    rows = page.locator(f"#{chart}-table tbody tr").all()
    return [[cell.text_content() for cell in row.locator("th, td").all()] for row in rows]


def traces(page, chart):
    return page.evaluate(f"document.getElementById('{chart}-chart').data.map(t => t.name || t.type)")


def front_shown(page):
    line = "document.getElementById('tradeoff-chart').data.find(t => t.name === 'front')"
    return set(page.evaluate(f"{line}.x.map((x, n) => `${{x}} ${{{line}.y[n]}}`)"))


def best_of(page, metric, algorithms=("fedavg-adam", "fedsgd")):
    """Return the Pareto front of the selected grid cell by a metric that is better if lower."""
    rows = page.evaluate("page.conditions.filter(row => row.place === 1)")
    rows = [row for row in rows if row["metric"] == metric and row["algorithm"] in algorithms]
    points = {(row["global"], row["local"]) for row in rows}
    better = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    return {f"{x:g} {y:g}" for x, y in better}


def test_page_shows_the_scores_of_a_study(study, opened):
    page = opened(study.path / "report.html")
    assert page.locator("h1").text_content() == "made-up"
    task = study.results.filter(pl.col("axis.heterogeneity") == "task")
    means = {
        (row["algorithm"], row["setting"], row["step"]): row
        for row in summarize(task).to_dicts()
        if row["metric"] == "rouge_l" and row["condition"] == "personalized"
    }
    found = {row[0]: row for row in cells(page, "tradeoff")}
    for (algorithm, setting, step), row in means.items():
        local, shared = found[f"{algorithm}, {setting}, step {step}"][1:3]
        assert float(local) == pytest.approx(row["local"], rel=1e-3)
        assert float(shared) == pytest.approx(row["global"], rel=1e-3)
    most = page.locator("#summary tr:visible", has_text="best local score").first
    _, _, gain, forgetting = (cell.inner_text().split("\n") for cell in most.locator("td").all())
    assert gain == ["10.0", "[10.0, 10.0]"], "without noise, the interval has no width"
    low, high = map(float, forgetting[1].strip("[]").split(", "))
    assert low < float(forgetting[0]) < high
    worst = found["fedsgd, rate0.1, step 4"][6]
    value, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", worst).groups())
    assert low < value < high
    assert found["base model, no prompt"][6] == "–", "the base model has no forgetting"
    verdicts = [one.text_content() for one in page.locator("#claims tr:visible .verdict").all()]
    assert len(verdicts) == 7
    assert verdicts[5] == "supported", "by construction, more heterogeneous clients forget more"
    assert "correction for the number of claims" in page.locator("#claims").text_content()
    assert without_data(page.problems) == []


def test_page_names_all_machines_of_a_study(study, opened, tmp_path):
    processors = {"one": "Epyc", "two": "Xeon", "three": "Epyc"}
    environments = {
        run: {"machine": {"processor": name}, "model": {"name": "m"}, "seed": seed}
        for seed, (run, name) in enumerate(processors.items())
    }
    write_page(replace(study, environments=environments), tmp_path / "report.html")
    page = opened(tmp_path / "report.html")
    assert "seconds on Epyc and Xeon." in page.locator("#budget").text_content()
    shown = json.loads(page.locator("#setup details:has-text('Environment') pre").text_content())
    runs = [one["runs"] for one in shown]
    assert runs == [{"one": {"seed": 0}, "three": {"seed": 2}}, {"two": {"seed": 1}}]


def test_page_lists_trials_and_marks_edge_selections(study, opened):
    page = opened(study.path / "report.html")
    rows = [row.locator("th, td").all_text_contents() for row in page.locator("#learning tbody tr").all()]
    rows = [row[1:] for row in rows if row[0].startswith("heterogeneity")]
    assert len(rows) == 2 * 3 * len(TRIALS), "levels and seeds"
    assert {row[1]: row[-1].strip() for row in rows} == {
        "fedavg-adam-rate0.01": "",
        "fedavg-adam-rate0.03": "",
        "fedavg-adam-rate0.1": "selected, at the edge of the grid",
        "fedsgd-rate0.01": "",
        "fedsgd-rate0.03": "selected",
        "fedsgd-rate0.1": "",
    }
    assert "At the edge of the grid: 6 of the 12 selected" in page.locator("#learning").text_content()
    assert without_data(page.problems) == []


def test_filters_update_charts_and_tables(study, opened):
    page = opened(study.path / "report.html")
    before = cells(page, "tradeoff")
    page.select_option("#axis-0", "iid")
    after = cells(page, "tradeoff")
    assert [row[0] for row in before] == [row[0] for row in after]
    assert before != after
    page.select_option("#metric", "loss")
    assert float(cells(page, "tradeoff")[0][1]) == pytest.approx(4.0), "the base model's loss"
    first, last = page.evaluate("document.getElementById('tradeoff-chart')._fullLayout.xaxis.range")
    assert first > last, "the loss axis is inverted"
    assert "fedsgd, federated" in traces(page, "tradeoff")
    assert front_shown(page) == best_of(page, "loss")
    page.get_by_label("fedsgd").uncheck()
    assert not [name for name in traces(page, "tradeoff") + traces(page, "forgetting") if "fedsgd" in name]
    assert not [row for row in cells(page, "tradeoff") if "fedsgd" in row[0]]
    assert front_shown(page) == best_of(page, "loss", ["fedavg-adam"]) != best_of(page, "loss")
    page.uncheck("#front")
    assert "front" not in traces(page, "tradeoff")
    page.get_by_label("fedavg-adam").uncheck()
    assert page.locator("#forgetting-chart .empty").is_visible()
    page.get_by_label("fedavg-adam").check()
    assert len(traces(page, "forgetting")) == 2
    assert without_data(page.problems) == []


def test_equality_line_lies_within_the_points(study, opened):
    page = opened(study.path / "report.html")
    for metric in ("rouge_l", "loss"):
        page.select_option("#metric", metric)
        line, *others = page.evaluate(
            "document.getElementById('tradeoff-chart').data.map(t => [t.name, t.x, t.y])"
        )
        assert line[0] == "equal scores"
        assert line[1] == line[2]
        for axis in (1, 2):
            values = [value for trace in others for value in trace[axis]]
            assert min(values) <= line[axis][0] < line[axis][1] <= max(values)
    assert without_data(page.problems) == []


def test_toolbar_has_no_sharing_buttons(study, opened):
    page = opened(study.path / "report.html")
    titles = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert "Download plot as a PNG" in titles
    assert not [title for title in titles if re.search("share|cloud|studio", title, re.IGNORECASE)]


def test_page_works_by_keyboard_on_dark_phone(study, opened):
    page = opened(study.path / "report.html", 390, 844, "dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.focus("#axis-0")
    page.keyboard.press("ArrowDown")
    assert page.locator("#axis-0").input_value() == "iid"
    page.focus("#tradeoff summary")
    page.keyboard.press("Enter")
    assert page.locator("#tradeoff-table").is_visible()
    assert without_data(page.problems) == []


def test_rows_download_as_csv(study, opened, tmp_path):
    page = opened(study.path / "report.html")
    page.locator("#tradeoff summary").click()
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "rows.csv")
    rows = pl.read_csv(tmp_path / "rows.csv")
    assert len(rows) == len(page.evaluate("page.conditions"))
    assert set(rows["place"]) == {"heterogeneity task", "heterogeneity iid"}
    link = page.get_by_role("link", name="results.parquet")
    with page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "results.parquet")
    assert (tmp_path / "results.parquet").read_bytes() == (study.path / "results.parquet").read_bytes()


def test_user_texts_are_escaped(hostile, opened):
    page = opened(hostile / "report.html")
    page.wait_for_selector("#transfer-chart .plot-container")
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("img").count() == 0
    names = [row[0] for row in cells(page, "transfer")]
    assert names
    assert all(name.startswith(MARKUP) for name in names)
    heads = [cell.text_content() for cell in page.locator("#transfer-table thead th").all()]
    assert all(name.startswith(ENDING) for name in heads[1:])
    drawn = page.evaluate(
        "[...document.querySelectorAll('#transfer-chart .ytick text')].map(t => t.textContent)"
    )
    assert any(name.startswith(MARKUP[:20]) for name in drawn)
    assert without_data(page.problems) == []


def test_training_and_partition_tables_match_results(hostile, opened):
    page = opened(hostile / "report.html")
    tables = open_tables(hostile)
    learned = cells(page, "learning")
    assert [row[:2] for row in learned] == [[name, str(n)] for name in ("avg", "sgd") for n in (1, 2, 3)]
    expected = [float(value) for value in tables.rounds["validation_loss"]]
    assert [float(row[3]) for row in learned] == pytest.approx(expected, rel=1e-3)
    heads = [cell.text_content() for cell in page.locator("#partition-table thead th").all()][2:]
    shown = {
        (row[0], task): int(count)
        for row in cells(page, "partition")
        for task, count in zip(heads, row[2:], strict=True)
        if count != "0"
    }
    assert shown == {
        (row["client"], row["task"]): row["examples"] for row in tables.clients.to_dicts() if row["examples"]
    }


def test_transfer_table_matches_results(hostile, opened):
    page = opened(hostile / "report.html")
    page.select_option("#metric", "loss")
    results = fedprofit.read_results(hostile).filter(
        pl.col("metric") == "loss",
        pl.col("scope").is_in(["local_task", "others_task", "unseen_task"]),
        pl.col("algorithm") == "avg",
    )
    tuned = results.filter(pl.col("condition") == "personalized", pl.col("alpha") == 1.0, pl.col("step") == 3)
    before = results.filter(pl.col("condition") == "federated", pl.col("setting") == "last")
    joined = before.join(tuned, on=["client", "task"], suffix="_after")
    heads = [cell.text_content() for cell in page.locator("#transfer-table thead th").all()]
    shown = {
        (row[0], task): value
        for row in cells(page, "transfer")
        for task, value in zip(heads[1:], row[1:], strict=True)
        if value != "–"  # a task of the client without own examples
    }
    assert len(shown) == len(joined) > 0
    for row in joined.to_dicts():
        assert float(shown[row["client"], row["task"]]) == pytest.approx(
            row["value"] - row["value_after"], abs=2e-4
        )
