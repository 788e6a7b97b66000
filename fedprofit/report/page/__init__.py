"""The report as one self-contained HTML page."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedprofit.analyze.tables import Tables
from fedprofit.core.errors import printable
from fedprofit.core.files import write_text
from fedprofit.report.page.data import page_data
from fedprofit.runs.environment import package_version


def write_page(tables: Tables, path: Path) -> None:
    """Write the page of a run or study.

    The page contains its styles, scripts (including Plotly) and data. The template escapes users' text; the
    script inserts it as text, never as markup.
    """
    write_text(path, render(tables))


def render(tables: Tables) -> str:
    """Return the HTML of the page."""
    environment = Environment(
        loader=PackageLoader("fedprofit.report.page", "."), autoescape=True, undefined=StrictUndefined
    )
    found = escape_controls(page_data(tables))
    return environment.get_template("page.html").render(
        page=found,
        # The template already contains the downloads, so the script's data does not.
        data=script_json({name: value for name, value in found.items() if name != "downloads"}),
        style=_read_asset("page.css"),
        script=_read_asset("page.js"),
        plotly=_plotly(),
        version=package_version("fedprofit"),
    )


def escape_controls(value: Any) -> Any:
    r"""Escape the control characters of all texts in a JSON-like value.

    >>> escape_controls({"clients": ["a\u202eb", 1]})
    {'clients': ['a\\u202eb', 1]}
    """
    if isinstance(value, dict):
        return {escape_controls(key): escape_controls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape_controls(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def script_json(value: object) -> str:
    r"""Return JSON that is safe inside a script element, whatever texts it contains.

    >>> print(script_json("</script><!--"))
    "\u003c/script\u003e\u003c!--"
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read_asset(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
