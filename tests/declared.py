"""An environment with exactly the packages that pyproject.toml declares, made of links to this one's."""

import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def declared(extras: tuple[str, ...]) -> dict[str, Distribution]:
    """Return the distributions that installing the package with these extras installs, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(line) for line in wanted]
    while queue:
        requirement = queue.pop()
        name, asked = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, asked) in seen:
            continue
        seen.add((name, asked))
        found[name] = distribution(name)
        for line in found[name].requires or []:
            inner = Requirement(line)
            marker = inner.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (asked or {""})):
                queue.append(inner)
    return found


def make_environment(folder: Path, extras: tuple[str, ...]) -> Path:
    """Make a virtual environment in a folder; return its Python.

    Raises PackageNotFoundError if a declared package is not installed here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    shared = _shared_names()
    for one in [*declared(extras).values(), distribution("fedprofit")]:
        for file in one.files or []:
            if (
                file.parts[0] == "fedprofit"
                or file.parts[0] in ("..", "__pycache__")
                or "__editable__" in file.parts[0]
            ):
                continue
            # A top-level folder of several distributions is linked file by file.
            parts = file.parts if file.parts[0] in shared else file.parts[:1]
            link, target = site.joinpath(*parts), Path(str(one.locate_file("/".join(parts))))
            if not link.exists() and target.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
    (site / "fedprofit").symlink_to(ROOT / "fedprofit")
    return folder / "bin" / "python"


def _shared_names() -> set[str]:
    tops = [{file.parts[0] for file in one.files or []} for one in distributions()]
    counted = Counter(name for names in tops for name in names)
    return {name for name, count in counted.items() if count > 1}


__all__ = ["PackageNotFoundError", "declared", "make_environment"]
