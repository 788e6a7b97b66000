"""Folders that libraries write to beside the results, also where the user's home cannot be used.

Containers run under users without a name, without a home, or with one that cannot be written. Libraries meet
that with tracebacks, warnings or, numba, by not compiling; `settle` names folders of our cache to them.
"""

import os
from pathlib import Path

from fedprofit.core.errors import UserError
from fedprofit.core.files import CACHE, base_folder, cache_folder

# The variable that names a library's folder, and the folder it takes without: below the user's folder for
# configurations or caches, as the XDG standard names them.
LIBRARIES = {
    "MPLCONFIGDIR": ("XDG_CONFIG_HOME", ".config", "matplotlib"),
    "HF_HOME": ("XDG_CACHE_HOME", ".cache", "huggingface"),
    "TORCHINDUCTOR_CACHE_DIR": ("XDG_CACHE_HOME", ".cache", "torchinductor"),
    "TRITON_CACHE_DIR": ("", ".triton", "cache"),
}
# What is written below HF_HOME even where all models are there to be read.
WRITTEN = {"HF_DATASETS_CACHE": "datasets", "HF_MODULES_CACHE": "modules"}

ANEW = "compiled anew in each process"  # what loops are that cannot be kept


def usable(folder: Path) -> bool:
    """Tell whether a folder can be written, or made where it is absent."""
    try:
        while not folder.exists():
            folder = folder.parent
        effective = os.access in os.supports_effective_ids
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)
    except OSError:
        return False


def settle() -> None:
    """Name folders of our cache to libraries whose usual folders cannot be written; make none.

    What the environment names already is left alone. A user without any home gets our cache for one: some
    libraries (nltk, below rouge-score) do not import without.
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
        if variable == "HF_HOME" and usual is not None and usual.is_dir():  # its models can be read
            for written, part in WRITTEN.items():
                os.environ.setdefault(written, str(own / "huggingface" / part))
        else:
            os.environ[variable] = str(own / name)


def numba_folder() -> tuple[Path | None, str]:
    """Return where compiled loops are kept; or None, and why each process compiles them anew."""
    variable = "NUMBA_CACHE_DIR" if os.environ.get("NUMBA_CACHE_DIR") else CACHE
    try:
        folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder() / "numba")
    except UserError as error:
        return None, str(error)
    if usable(folder):
        return folder, ""
    return None, f"{folder} cannot be written. Set {variable} to a folder that can be."
