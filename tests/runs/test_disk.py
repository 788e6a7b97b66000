"""A full disk: a small file system, on machines on which it can be mounted."""

import subprocess

import pytest
from tiny_run import call, write_config


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("cannot mount a small file system here: run the tests as root, outside a container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_reported_without_partial_files(tmp_path, small_disk):
    config = write_config(tmp_path)
    done = call("run", config, "--out", small_disk / "run", "--quiet", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "no space is left on the disk" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(small_disk.rglob("*.part")), "partial files remain"
