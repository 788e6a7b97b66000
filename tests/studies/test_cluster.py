"""Studies on a real Ray cluster of two nodes, one of which is killed during the study."""

import re
import threading
from pathlib import Path

import pytest
from test_many import Recorder
from test_study import ORDER, write_study

from fedprofit.core.errors import UserError
from fedprofit.studies import cluster
from fedprofit.studies.ledger import StudyFolder, read_table
from fedprofit.studies.many import report_time, run_study
from fedprofit.studies.spec import load_study

ray = pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")
from ray.cluster_utils import Cluster as Nodes  # noqa: E402


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The study, computed by processes of this machine."""
    place = tmp_path_factory.mktemp("here")
    path = write_study(place)
    folder, progress = run_study(path, out=place / "out", workers=2)
    assert not progress.failed
    return path, folder


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    found = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found, second
    ray.shutdown()
    found.shutdown()


def test_study_on_cluster_survives_killed_node(here, nodes, tmp_path):
    path, folder = here
    found, second = nodes
    node_runs, over = tmp_path / "cache" / "runs", threading.Event()

    def kill_when_both_are_busy():
        while not over.wait(0.02):
            # A node has one CPU, so two folders mean that each node computes a run.
            if node_runs.exists() and len(list(node_runs.iterdir())) == 2:
                found.remove_node(second, allow_graceful=False)
                return

    killer = threading.Thread(target=kill_when_both_are_busy, daemon=True)
    killer.start()
    report = Recorder()
    taken, progress = run_study(path, out=tmp_path / "out", ray=found.address, report=report)
    over.set()
    killer.join()
    assert any("its process died" in line and "once more" in line for line in report.lines), report.lines
    assert not progress.failed
    assert read_table(taken).sort(ORDER).equals(read_table(folder).sort(ORDER))
    for name in ("rounds.parquet", "clients.parquet", "environments.json", "times.parquet"):
        assert (taken.path / name).exists()
    assert not list(node_runs.iterdir())
    # The remaining node can estimate the time of the study.
    report = Recorder()
    report_time(StudyFolder(tmp_path / "new"), load_study(path)[1], cluster.Cluster(found.address), report)
    assert report.lines[0].startswith("4 of 4 runs remaining, ")
    assert re.fullmatch(r"about \d+ (s|min .*)", report.lines[1])


def test_study_reports_missing_cluster(tmp_path):
    with pytest.raises(UserError, match="no cluster answers"):
        run_study(write_study(tmp_path), out=tmp_path / "out", ray="127.0.0.1:1")
    assert not StudyFolder(tmp_path / "out").path.exists()


def test_cluster_names_extra_when_ray_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"fedprofit\[ray\]"):
        cluster.Cluster("local")


def test_node_does_not_resume_run_of_another_version(monkeypatch, tmp_path):
    """Mixed results would belong to neither version."""
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path))
    folders = []

    def computed(mapping, folder, plugins):
        folders.append(folder)
        Path(folder).mkdir(parents=True)
        (Path(folder) / "summary.json").write_text("{}")

    monkeypatch.setattr(cluster, "compute", computed)
    for version in ("1", "2"):
        monkeypatch.setattr(cluster, "package_version", lambda package, version=version: version)
        assert cluster.compute_on_node({}, "key")[1] == {"summary.json": b"{}"}
    assert len(set(folders)) == 2
