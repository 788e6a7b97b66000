import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# The loops are compiled once for all tests, not for each session's cache.
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models spend more time waiting for a second thread than working."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tests' own cache: they neither read nor fill the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPROFIT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the shared data sets; tests that need it are skipped if it is missing."""
    folder = ROOT / os.environ.get("FEDPROFIT_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"needs shared data, and {folder} is absent: name its folder with FEDPROFIT_DATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest test first, so that no worker is still busy with it at the end."""
    items.sort(key=lambda item: "test_resume" not in item.nodeid)
