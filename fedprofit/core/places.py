"""Cache folders of libraries, also for users whose home folder is missing or read-only.

Containers often run under such users. Libraries then raise errors, print warnings or, for numba, do not
compile. `settle` directs them to subfolders of this package's cache.
"""

import os
from pathlib import Path

from fedprofit.core.errors import UserError
from fedprofit.core.files import CACHE, base_folder, cache_folder

# The variable that sets a library's folder, and its default: below the user's folder for configurations or
# caches in the XDG standard.
LIBRARIES = {
    "MPLCONFIGDIR": ("XDG_CONFIG_HOME", ".config", "matplotlib"),
    "HF_HOME": ("XDG_CACHE_HOME", ".cache", "huggingface"),
    "TORCHINDUCTOR_CACHE_DIR": ("XDG_CACHE_HOME", ".cache", "torchinductor"),
    "TRITON_CACHE_DIR": ("", ".triton", "cache"),
}
# Subfolders of HF_HOME that are written even if all models can be read.
WRITTEN = {"HF_DATASETS_CACHE": "datasets", "HF_MODULES_CACHE": "modules"}

ANEW = "compiled in each process"  # state of loops that cannot be cached


def usable(folder: Path) -> bool:
    """Return whether a folder is writable, or can be created."""
    try:
        while not folder.exists():
            folder = folder.parent
        effective = os.access in os.supports_effective_ids
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
    except OSError:
        return False


def settle() -> None:
    """Set cache folders for libraries whose default folders are not writable; create none.

    Variables that are already set are unchanged. A user without a home folder gets our cache as HOME: some
    libraries (nltk, used by rouge-score) cannot be imported otherwise.
    """
    try:
        own = cache_folder()
    except UserError:
        return
    if not usable(own):
        return
    if base_folder("", "") is None:
        os.environ["HOME"] = str(own)
    for variable, (base, below_home, name) in LIBRARIES.items():
        folder = base_folder(base, below_home)
        usual = None if folder is None else folder / name
        if variable in os.environ or (usual is not None and usable(usual)):
            continue
        if variable == "HF_HOME" and usual is not None and usual.is_dir():  # its models are readable
            for written, part in WRITTEN.items():
                os.environ.setdefault(written, str(own / "huggingface" / part))
        else:
            os.environ[variable] = str(own / name)


def numba_folder() -> tuple[Path | None, str]:
    """Return the folder for compiled loops, or None and the reason why they cannot be cached."""
    variable = "NUMBA_CACHE_DIR" if os.environ.get("NUMBA_CACHE_DIR") else CACHE
    try:
        folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder() / "numba")
    except UserError as error:
        return None, str(error)
    if usable(folder):
        return folder, ""
    return None, f"{folder} cannot be written. Set {variable} to a writable folder."
