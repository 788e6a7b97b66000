"""Runs of a study side by side: some fail, some die, and the user is told how far it is."""

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
from fedprofit.studies.many import run_all, run_study, tell_time
from fedprofit.studies.pools import Processes
from fedprofit.studies.spec import load_study
from fedprofit.studies.watch import Watch, share_left, work_of


class Said(Quiet):
    """Keeps what is said and told."""

    def __init__(self):
        super().__init__()
        self.lines, self.stages = [], []

    def say(self, message):
        self.lines.append(message)

    def begin(self, stage):
        self.stages.append((stage, self._done / self._total))


def test_a_run_that_fails_is_tried_twice_and_reported(tmp_path, monkeypatch):
    path = write_study(tmp_path, axes={"seed": [0, 1]})
    _, runs = load_study(path)
    source = runs[1].config.data.source.model_copy(update={"path": str(tmp_path / "gone.jsonl")})
    data = runs[1].config.data.model_copy(update={"source": source})
    runs[1] = dataclasses.replace(runs[1], config=runs[1].config.model_copy(update={"data": data}))
    said = Said()
    folder = StudyFolder(tmp_path / "out")
    pool = Processes(1)
    tell_time(folder, runs[1:], pool, said)
    assert said.lines[0] == "1 of 1 runs to do, 1 at a time"
    assert said.lines[1].startswith("how long cannot be told: ")
    assert "gone.jsonl" in said.lines[1]
    progress = run_all(folder, runs, pool, said)
    assert done(folder) == {runs[0].key}
    (failure,) = progress.failed
    assert failure["attempts"] == 2
    assert "gone.jsonl" in failure["error"]
    assert said.stages[-1][0] == "1 of 2 runs, 1 failed, 100% of the work"
    assert [line for line in said.lines if "goes on once more" in line and "seed 1" in line]
    assert "gone.jsonl" in folder.failures.read_text()
    # Mended, it goes on with what is missing, and the failure is forgotten.
    again = run_all(folder, load_study(path)[1], Processes(1), said)
    assert (again.total, again.failed) == (1, [])
    assert not folder.failures.exists()


def test_a_run_whose_process_dies_goes_on_in_a_new_one(tmp_path, monkeypatch):
    path = write_study(tmp_path, axes={"seed": [0]})
    flag = tmp_path / "died"
    flag.touch()
    monkeypatch.setenv("FEDPROFIT_TEST_DIE", str(flag))
    monkeypatch.setattr(pools, "compute", die_once)
    said = Said()
    folder, progress = run_study(path, out=tmp_path / "out", workers=1, report=said, foresee=True)
    assert said.lines[0] == "1 of 1 runs to do, 1 at a time"
    assert re.fullmatch(r"about \d+ (s|min .*)", said.lines[1])
    assert any("its process died" in line for line in said.lines)
    assert not progress.failed
    assert len(done(folder)) == 1


def test_a_run_beside_one_that_dies_is_not_blamed(tmp_path, monkeypatch):
    path = write_study(tmp_path, axes={"seed": [0, 1]})
    monkeypatch.setenv("FEDPROFIT_TEST_DIE", str(tmp_path / "at-work"))
    monkeypatch.setattr(pools, "compute", die_beside_the_other)
    said = Said()
    folder, progress = run_study(path, out=tmp_path / "out", workers=2, report=said)
    assert not [line for line in said.lines if "failed" in line and "seed 0" in line], said.lines
    (failure,) = progress.failed
    assert (failure["axes"], failure["attempts"]) == ({"seed": 1}, 2)
    assert failure["error"] == "its process died"
    assert done(folder) == {planned.key for planned in load_study(path)[1] if planned.axes["seed"] == 0}


def die_beside_the_other(mapping, out):
    """Seed 1 is killed every time, not before seed 0 is at work; seed 0 waits for the first death."""
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


def die_once(mapping, out):
    """Be killed the first time, as by a system that is out of memory; then compute."""
    import os
    import signal
    from pathlib import Path

    from fedprofit.studies.pools import compute

    flag = Path(os.environ["FEDPROFIT_TEST_DIE"])
    if flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(mapping, out)


def test_how_far_a_run_is_stands_in_its_folder(tmp_path):
    path = write_study(tmp_path, axes={"seed": [0, 1, 2]})
    said = Said()
    folder, _ = run_study(path, out=tmp_path / "out", workers=1, report=said)
    for key in done(folder):
        run = RunFolder(folder.run(key))
        plan, timing = (read_json(file, "") for file in (run.plan, run.timing))
        assert list(plan) == list(timing), "every stage is planned, and done"
        assert work_of(run) == (sum(plan.values()), sum(plan.values()))
    texts = [text for text, _ in said.stages]
    assert [text for text in texts if "0 of" not in text][-1] == "3 of 3 runs, 100% of the work"
    shares = [share for _, share in said.stages]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def begun(place, plan, stages):
    """A run's folder with these stages planned, and the first of them done."""
    run = RunFolder(place)
    place.mkdir(exist_ok=True)
    write_json(run.plan, plan)
    write_json(run.timing, dict.fromkeys(list(plan)[:stages], 1.0))
    return place


def test_work_and_time_left_are_counted_by_what_is_planned(tmp_path):
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    assert work_of(RunFolder(one)) == (0, 0)
    begun(one, {"a": 3, "b": 1}, 1)
    assert [share_left(RunFolder(folder)) for folder in (one, other)] == [0.25, 1]
    said = Said()
    watch = Watch([one, other, third], 2, said)
    watch.look([one], [], [])
    assert said._done == 0, "what was done before does not count"
    # 1 is left of 4, and of two runs that are taken to be like it all: on two places 5, of which one is idle.
    assert said._total == 2 * 5
    begun(one, {"a": 3, "b": 1}, 2)
    begun(other, {"a": 15, "b": 5}, 1)
    watch.look([other], [one], [])
    # 15 + 1 done; left are 5 of 20, and 12, the mean of 4 and 20. The last run keeps one of two places busy.
    assert (said._done, said._total) == (16, 16 + 2 * 12)
    assert said.stages[-1][0] == "1 of 3 runs, 44% of the work"
    watch.look([], [other], [third])
    assert said.stages[-1][0] == "2 of 3 runs, 1 failed, 100% of the work"
    (one / "plan.json").write_text('{"a": 3')
    assert work_of(RunFolder(one)) == (0, 0), "cut off; it only serves the bar"
    begun(one, {"train-avg": 3, "b": 1}, 1)
    assert work_of(RunFolder(one)) == (4, 0), "rounds are left"
    RunFolder(one).history("avg").parent.mkdir()
    RunFolder(one).history("avg").write_text("[]")
    assert work_of(RunFolder(one)) == (4, 3)


def test_places_that_no_run_is_left_for_are_not_waited_for(tmp_path):
    said = Said()
    Watch([begun(tmp_path / "one", {"a": 3, "b": 1}, 1)], 2, said)
    assert said._total == 1, "what is left of the only run, computed in one of two places"


class Breaking:
    """A pool in which every run fails, and which takes no more than five attempts."""

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


def test_what_ends_a_study_takes_no_failure_along(tmp_path):
    runs = load_study(write_study(tmp_path))[1]
    folder = StudyFolder(tmp_path / "out")
    with pytest.raises(UserError, match="the cluster is gone"):
        run_all(folder, runs, Breaking(), Quiet())
    (failure,) = read_rows(folder.failures, "")
    assert (failure["error"], failure["attempts"]) == ("ValueError: broken", 2)


def test_a_failure_is_told_until_its_run_is_tried_again(tmp_path):
    runs = load_study(write_study(tmp_path))[1]
    folder = StudyFolder(tmp_path)
    failed = [{"run": run.key, "error": "died"} for run in runs[:2]]
    write_failures(folder, failed[:1], runs[:1])
    write_failures(folder, failed[1:], runs[1:2])
    assert read_rows(folder.failures, "") == failed, "of both pieces"
    write_failures(folder, [], runs[:1])
    assert read_rows(folder.failures, "") == failed[1:]
    write_failures(folder, [], runs)
    assert not folder.failures.exists()


def test_a_run_whose_files_are_damaged_is_reported_and_the_others_go_on(tmp_path):
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


def test_a_place_in_the_table_is_one_configurations(tmp_path):
    path = write_study(tmp_path, axes={"seed": [0]})
    folder, _ = run_study(path, out=tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="holds results at seed 0 of another configuration"):
        run_study(path, ["training.rounds=3"], out=tmp_path / "out", workers=1, resume=True)
    assert len(done(folder)) == 1
    assert run_study(path, out=tmp_path / "out", workers=1, resume=True)[1].total == 0
