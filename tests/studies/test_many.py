"""Parallel runs of a study: failures, killed processes, and progress messages."""

import dataclasses
import re
import shutil
from concurrent.futures import Future

import pytest
from test_study import write_study

from fedprofit.core.errors import UserError
from fedprofit.core.files import write_json
from fedprofit.core.reading import read_json, read_rows
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.progress import Quiet
from fedprofit.studies import pools
from fedprofit.studies.ledger import StudyFolder, done, write_failures
from fedprofit.studies.many import report_time, run_all, run_study
from fedprofit.studies.pools import Processes
from fedprofit.studies.spec import load_study
from fedprofit.studies.watch import Watch, cost_of, share_left


class Recorder(Quiet):
    """Records messages and stages."""

    def __init__(self):
        super().__init__()
        self.lines, self.stages = [], []

    def say(self, message):
        self.lines.append(message)

    def begin(self, stage):
        self.stages.append((stage, self._done / self._total))


def test_failed_run_is_retried_once_and_reported(tmp_path, monkeypatch):
    path = write_study(tmp_path, axes={"seed": [0, 1]})
    _, runs = load_study(path)
    source = runs[1].config.data.source.model_copy(update={"path": str(tmp_path / "gone.jsonl")})
    data = runs[1].config.data.model_copy(update={"source": source})
    runs[1] = dataclasses.replace(runs[1], config=runs[1].config.model_copy(update={"data": data}))
    report = Recorder()
    folder = StudyFolder(tmp_path / "out")
    pool = Processes(1)
    report_time(folder, runs[1:], pool, report)
    assert report.lines[0] == "1 of 1 runs remaining, 1 in parallel"
    assert report.lines[1].startswith("the time is unknown: ")
    assert "gone.jsonl" in report.lines[1]
    progress = run_all(folder, runs, pool, report)
    assert done(folder) == {runs[0].key}
    (failure,) = progress.failed
    assert failure["attempts"] == 2
    assert "gone.jsonl" in failure["error"]
    assert report.stages[-1][0] == "1 of 2 runs, 1 failed, 100% of the work"
    assert [line for line in report.lines if "trying once more" in line and "seed 1" in line]
    assert "gone.jsonl" in folder.failures.read_text()
    # With its data, the failed run completes, and the failure is removed.
    again = run_all(folder, load_study(path)[1], Processes(1), report)
    assert (again.total, again.failed) == (1, [])
    assert not folder.failures.exists()


def test_run_resumes_in_new_process_when_killed(tmp_path, monkeypatch):
    path = write_study(tmp_path, axes={"seed": [0]})
    flag = tmp_path / "died"
    flag.touch()
    monkeypatch.setenv("FEDPROFIT_TEST_DIE", str(flag))
    monkeypatch.setattr(pools, "compute", die_once)
    report = Recorder()
    folder, progress = run_study(path, out=tmp_path / "out", workers=1, report=report, estimate=True)
    assert report.lines[0] == "1 of 1 runs remaining, 1 in parallel"
    assert re.fullmatch(r"about \d+ (s|min .*)", report.lines[1])
    assert any("its process died" in line for line in report.lines)
    assert not progress.failed
    assert len(done(folder)) == 1


def test_killed_process_does_not_fail_other_runs(tmp_path, monkeypatch):
    path = write_study(tmp_path, axes={"seed": [0, 1]})
    monkeypatch.setenv("FEDPROFIT_TEST_DIE", str(tmp_path / "at-work"))
    monkeypatch.setattr(pools, "compute", die_beside_the_other)
    report = Recorder()
    folder, progress = run_study(path, out=tmp_path / "out", workers=2, report=report)
    assert not [line for line in report.lines if "failed" in line and "seed 0" in line], report.lines
    (failure,) = progress.failed
    assert (failure["axes"], failure["attempts"]) == ({"seed": 1}, 2)
    assert failure["error"] == "its process died"
    assert done(folder) == {planned.key for planned in load_study(path)[1] if planned.axes["seed"] == 0}


def die_beside_the_other(mapping, out, plugins):
    """Kill seed 1 each time, after seed 0 has started; seed 0 waits for the first kill."""
    import os
    import signal
    import time
    from pathlib import Path

    from fedprofit.studies.pools import compute

    at_work = Path(os.environ["FEDPROFIT_TEST_DIE"])
    dying = at_work.with_name("dying")
    if mapping["seed"] == 1:
        while not at_work.exists():
            time.sleep(0.01)
        dying.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    at_work.touch()
    while not dying.exists():
        time.sleep(0.01)
    return compute(mapping, out)


def die_once(mapping, out, plugins):
    """Kill the process at the first call, like an out-of-memory killer; then compute."""
    import os
    import signal
    from pathlib import Path

    from fedprofit.studies.pools import compute

    flag = Path(os.environ["FEDPROFIT_TEST_DIE"])
    if flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(mapping, out)


def test_cost_of_reads_progress_from_run_folder(tmp_path):
    path = write_study(tmp_path, axes={"seed": [0, 1, 2]})
    report = Recorder()
    folder, _ = run_study(path, out=tmp_path / "out", workers=1, report=report)
    for key in done(folder):
        run = RunFolder(folder.run(key))
        plan, timing = (read_json(file, "") for file in (run.plan, run.timing))
        assert list(plan) == list(timing), "every stage is planned and timed"
        assert cost_of(run) == (sum(plan.values()), sum(plan.values()))
    texts = [text for text, _ in report.stages]
    assert [text for text in texts if "0 of" not in text][-1] == "3 of 3 runs, 100% of the work"
    shares = [share for _, share in report.stages]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def started(place, plan, stages):
    """Return the folder of a run with this plan and the first stages done."""
    run = RunFolder(place)
    place.mkdir(exist_ok=True)
    write_json(run.plan, plan)
    write_json(run.timing, dict.fromkeys(list(plan)[:stages], 1.0))
    return place


def test_watch_counts_remaining_cost_from_plans(tmp_path):
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    assert cost_of(RunFolder(one)) == (0, 0)
    started(one, {"a": 3, "b": 1}, 1)
    assert [share_left(RunFolder(folder)) for folder in (one, other)] == [0.25, 1]
    report = Recorder()
    watch = Watch([one, other, third], 2, report)
    watch.update([one], [], [])
    assert report._done == 0, "earlier progress does not count"
    # Remaining: 1 of 4 for the first run, and 4 each for two runs of the same assumed size. Two workers need
    # 5, since one of them becomes idle.
    assert report._total == 2 * 5
    started(one, {"a": 3, "b": 1}, 2)
    started(other, {"a": 15, "b": 5}, 1)
    watch.update([other], [one], [])
    # 15 + 1 done. Remaining: 5 of 20, and 12, the mean of 4 and 20, which keeps one of two workers busy.
    assert (report._done, report._total) == (16, 16 + 2 * 12)
    assert report.stages[-1][0] == "1 of 3 runs, 44% of the work"
    watch.update([], [other], [third])
    assert report.stages[-1][0] == "2 of 3 runs, 1 failed, 100% of the work"
    (one / "plan.json").write_text('{"a": 3')
    assert cost_of(RunFolder(one)) == (0, 0), "an incomplete file only affects the progress bar"
    started(one, {"train-avg": 3, "b": 1}, 1)
    assert cost_of(RunFolder(one)) == (4, 0), "some rounds remain"
    RunFolder(one).history("avg").parent.mkdir()
    RunFolder(one).history("avg").write_text("[]")
    assert cost_of(RunFolder(one)) == (4, 3)


def test_watch_ignores_workers_without_runs(tmp_path):
    report = Recorder()
    Watch([started(tmp_path / "one", {"a": 3, "b": 1}, 1)], 2, report)
    assert report._total == 1, "the remaining cost of the only run, on one of two workers"


class Breaking:
    """A pool in which every run fails, and which refuses more than five attempts."""

    at_a_time = 1

    def __init__(self):
        self.taken = 0

    def submit(self, planned, folder):
        self.taken += 1
        if self.taken > 5:
            raise UserError("the cluster is gone")
        failed = Future()
        failed.set_exception(ValueError("broken"))
        return failed

    def has_died(self, error):
        return False


def test_failures_are_written_when_study_aborts(tmp_path):
    runs = load_study(write_study(tmp_path))[1]
    folder = StudyFolder(tmp_path / "out")
    with pytest.raises(UserError, match="the cluster is gone"):
        run_all(folder, runs, Breaking(), Quiet())
    (failure,) = read_rows(folder.failures, "")
    assert (failure["error"], failure["attempts"]) == ("ValueError: broken", 2)


def test_failure_is_listed_until_run_is_retried(tmp_path):
    runs = load_study(write_study(tmp_path))[1]
    folder = StudyFolder(tmp_path)
    failed = [{"run": run.key, "error": "died"} for run in runs[:2]]
    write_failures(folder, failed[:1], runs[:1])
    write_failures(folder, failed[1:], runs[1:2])
    assert read_rows(folder.failures, "") == failed, "of both parts of the study"
    write_failures(folder, [], runs[:1])
    assert read_rows(folder.failures, "") == failed[1:]
    write_failures(folder, [], runs)
    assert not folder.failures.exists()


def test_study_continues_when_files_of_run_are_damaged(tmp_path):
    path, out = write_study(tmp_path, axes={"seed": [0, 1]}), tmp_path / "out"
    folder, _ = run_study(path, out=out, workers=1, only=["seed=0"])
    (key,) = done(folder)
    shutil.rmtree(folder.run(key) / "parts")
    folder.results.unlink()
    _, progress = run_study(path, out=out, workers=1, resume=True)
    (failure,) = progress.failed
    assert (progress.done, failure["run"], failure["attempts"]) == (1, key, 1)
    assert "cannot be read (No such file or directory). " in failure["error"]
    shutil.rmtree(folder.run(key))
    assert run_study(path, out=out, workers=1, resume=True)[1].done == 1
    assert len(done(folder)) == 2
    assert not folder.failures.exists()


def test_study_refuses_another_configuration_for_same_cell(tmp_path):
    path = write_study(tmp_path, axes={"seed": [0]})
    folder, _ = run_study(path, out=tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="contains results at seed 0 of another configuration"):
        run_study(path, ["training.rounds=3"], out=tmp_path / "out", workers=1, resume=True)
    assert len(done(folder)) == 1
    assert run_study(path, out=tmp_path / "out", workers=1, resume=True)[1].total == 0
