"""The client store on disk: cost, crashes between its file and the checkpoint, damage."""

import pytest
import torch

from fedprofit.core.errors import UserError
from fedprofit.runs.checkpoint import save_tensors
from fedprofit.runs.client_files import ClientFiles
from fedprofit.server.store import ClientStore

LIKE = {"prompt": torch.zeros(2, 3), "scale": torch.zeros(())}


def opened(folder, round=0, facts=None, algorithm="ditto"):
    return ClientFiles(folder, algorithm, round, facts or {}, "Mend it.")


def rows(round, clients):
    values = torch.tensor([float(100 * round + int(client[1:])) for client in clients])
    return {"prompt": values[:, None, None].expand(-1, 2, 3), "scale": values}


def written(files, round, clients, name="personal"):
    """Write a complete round; return the facts for its checkpoint."""
    ClientStore(files).put(name, clients, rows(round, clients))
    files.save(round)
    facts = dict(files.facts)
    files.tidy()
    return facts


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_cost_of_round_is_that_of_cohort(tmp_path):
    """Eight of a million clients per round: three files of eight rows."""
    files, population = opened(tmp_path / "s"), 1_000_000
    for round in (1, 2, 3):
        written(files, round, [f"c{(round * 8 + k) * 7919 % population}" for k in range(8)])
    found = sizes(tmp_path / "s")
    assert len(found) == 3
    assert sum(found.values()) < 3 * (8 * 7 * 4 + 1500), "rows, and a header a file"


def test_store_reads_what_rounds_wrote(tmp_path):
    files = opened(tmp_path / "s")
    facts = written(files, 1, ["c1", "c2"])
    facts = written(files, 2, ["c2", "c3"])
    for one in (files, opened(tmp_path / "s", 2, facts)):
        found = ClientStore(one).get("personal", ["c1", "c2", "c3", "c9"], LIKE)
        assert found["scale"].tolist() == [101.0, 202.0, 203.0, 0.0]
        assert found["prompt"].shape == (4, 2, 3)
        assert ClientStore(one).has("personal", ["c1", "c9"]) == [True, False]
        assert ClientStore(one).has("other", ["c1"]) == [False]


def test_uncommitted_round_leaves_no_trace(tmp_path):
    """Killed after the file of round 2, before the checkpoint of round 2."""
    files = opened(tmp_path / "s")
    facts = written(files, 1, ["c1", "c2"])
    ClientStore(files).put("personal", ["c1", "c2"], rows(2, ["c1", "c2"]))
    files.save(2)
    again = opened(tmp_path / "s", 1, facts)
    assert ClientStore(again).get("personal", ["c1", "c2"], LIKE)["scale"].tolist() == [101.0, 102.0]
    assert list(sizes(tmp_path / "s")) == ["round-00000001.safetensors"]


def test_committed_round_survives_without_tidying(tmp_path):
    """Killed after the checkpoint of round 2, before the replaced file is removed."""
    files = opened(tmp_path / "s")
    written(files, 1, ["c1", "c2"])
    ClientStore(files).put("personal", ["c1", "c2"], rows(2, ["c1", "c2"]))
    files.save(2)
    again = opened(tmp_path / "s", 2, files.facts)
    assert ClientStore(again).get("personal", ["c1", "c2"], LIKE)["scale"].tolist() == [201.0, 202.0]
    assert list(sizes(tmp_path / "s")) == ["round-00000002.safetensors"]


def test_store_without_checkpoint_starts_empty(tmp_path):
    written(opened(tmp_path / "s"), 1, ["c1"])
    assert not ClientStore(opened(tmp_path / "s")).has("personal", ["c1"])[0]
    assert sizes(tmp_path / "s") == {}


def test_replaced_rows_are_bounded(tmp_path):
    """Cohorts that overlap: without moving rows, every file would keep one current row forever."""
    files, expected = opened(tmp_path / "s"), {}
    for round in range(1, 60):
        clients = [f"c{round}" if round < 12 else "c0", "c90", "c91", "c92", "c93", "c94", "c95"]
        facts = written(files, round, clients)
        expected |= dict(zip(clients, rows(round, clients)["scale"].tolist(), strict=True))
    for one in (files, opened(tmp_path / "s", 59, facts)):
        found = ClientStore(one).get("personal", sorted(expected), LIKE)["scale"].tolist()
        assert found == [expected[client] for client in sorted(expected)]
    assert len(sizes(tmp_path / "s")) <= 8


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_damaged_files_are_named(tmp_path, damage):
    files = opened(tmp_path / "s")
    written(files, 1, ["c1"])
    facts = written(files, 2, ["c2"])
    path = tmp_path / "s" / "round-00000001.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[-3] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-5])
    with pytest.raises(UserError, match=r"Mend it\.") as caught:
        opened(tmp_path / "s", 2, facts)
    assert ("client states of 'ditto'" if damage == "missing" else str(path)) in str(caught.value)


def test_files_of_another_algorithm_are_refused(tmp_path):
    facts = written(opened(tmp_path / "s"), 1, ["c1"])
    with pytest.raises(UserError, match=r"has the client states of 'ditto', not of 'scaffold'\. Mend it"):
        opened(tmp_path / "s", 1, facts, "scaffold")


def test_states_of_another_shape_are_refused(tmp_path):
    files = opened(tmp_path / "s")
    written(files, 1, ["c1"])
    with pytest.raises(UserError, match=r"client 'c1': state 'personal': holds .*\[2, 3\].*expected"):
        ClientStore(files).get("personal", ["c1"], {"prompt": torch.zeros(4)})
    with pytest.raises(UserError, match=r"client 'c2': state 'personal' has tensors"):
        ClientStore(files).put("personal", ["c2"], {"prompt": torch.zeros(1, 5)})
    with pytest.raises(UserError, match=r"tensor 'prompt' has shape \[1, 5\] for 2 clients"):
        ClientStore(files).put("personal", ["c2", "c3"], {"prompt": torch.zeros(1, 5)})
    with pytest.raises(UserError, match=r"tensor 'prompt' of client 'c3' is not finite"):
        ClientStore(files).put("personal", ["c2", "c3"], {"prompt": torch.tensor([[1.0], [float("nan")]])})


def test_file_without_its_facts_is_damaged(tmp_path):
    save_tensors(tmp_path / "s" / "round-00000001.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="has the client states of None, not of"):
        opened(tmp_path / "s", 1)
