"""Studies on a real Ray cluster of two nodes, one of which is killed on the way."""

import re
import threading
from pathlib import Path

import pytest
from test_many import Said
from test_study import ORDER, write_study

from fedprofit.core.errors import UserError
from fedprofit.studies import cluster
from fedprofit.studies.ledger import StudyFolder, read_table
from fedprofit.studies.many import run_study, tell_time
from fedprofit.studies.spec import load_study

ray = pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")
from ray.cluster_utils import Cluster as Nodes  # noqa: E402


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The study as this machine's processes compute it."""
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


def test_a_node_killed_on_the_way_changes_nothing(here, nodes, tmp_path):
    path, folder = here
    found, second = nodes
    begun, over = tmp_path / "cache" / "runs", threading.Event()

    def kill_when_both_are_at_work():
        while not over.wait(0.02):
            # A node has one processor: two folders are a run on each.
            if begun.exists() and len(list(begun.iterdir())) == 2:
                found.remove_node(second, allow_graceful=False)
                return

    killer = threading.Thread(target=kill_when_both_are_at_work, daemon=True)
    killer.start()
    said = Said()
    taken, progress = run_study(path, out=tmp_path / "out", ray=found.address, report=said)
    over.set()
    killer.join()
    assert any("its process died" in line and "once more" in line for line in said.lines), said.lines
    assert not progress.failed
    assert read_table(taken).sort(ORDER).equals(read_table(folder).sort(ORDER))
    for name in ("rounds.parquet", "clients.parquet", "environments.json", "times.parquet"):
        assert (taken.path / name).exists()
    assert not list(begun.iterdir())
    # The node that is left can say how long such a study takes there.
    told = Said()
    tell_time(StudyFolder(tmp_path / "new"), load_study(path)[1], cluster.Cluster(found.address), told)
    assert told.lines[0].startswith("4 of 4 runs to do, ")
    assert re.fullmatch(r"about \d+ (s|min .*)", told.lines[1])


def test_no_cluster_at_the_address_is_named(tmp_path):
    with pytest.raises(UserError, match="no cluster answers"):
        run_study(write_study(tmp_path), out=tmp_path / "out", ray="127.0.0.1:1")
    assert not StudyFolder(tmp_path / "out").path.exists()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"fedprofit\[ray\]"):
        cluster.Cluster("local")


def test_another_version_begins_a_run_anew_on_a_node(monkeypatch, tmp_path):
    """What an earlier one left there would be gone on with, and be neither's result."""
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path))
    places = []

    def computed(mapping, folder):
        places.append(folder)
        Path(folder).mkdir(parents=True)
        (Path(folder) / "summary.json").write_text("{}")

    monkeypatch.setattr(cluster, "compute", computed)
    for version in ("1", "2"):
        monkeypatch.setattr(cluster, "package_version", lambda package, version=version: version)
        assert cluster.compute_there({}, "key")[1] == {"summary.json": b"{}"}
    assert len(set(places)) == 2
