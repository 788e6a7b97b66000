import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the shared data sets; tests that need it are skipped where it is absent."""
    folder = ROOT / os.environ.get("FEDPROFIT_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; FEDPROFIT_DATA names the folder of the shared data sets")
    return folder
