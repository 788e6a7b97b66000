"""Loads the example plug-ins, once for all tests of a process."""

from functools import cache
from pathlib import Path

from fedprofit import plugins

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "plugins"


@cache
def load_examples() -> None:
    """Register the components of all example plug-ins."""
    plugins.load_files(sorted(FOLDER.glob("*.py")))


def plugin_options(*names: str) -> list[str]:
    """Return the command-line options that load example plug-ins."""
    return [text for name in names for text in ("--plugin", str(FOLDER / f"{name}.py"))]
