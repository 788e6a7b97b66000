"""The report as one HTML page that needs nothing from the network."""

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

    Everything is inside: styles, scripts (Plotly's with them), and the data. Text of users is put into
    the page by the template, which escapes it, and by the script, as text and never as markup.
    """
    write_text(path, render(tables))


def render(tables: Tables) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("fedprofit.report.page", "."), autoescape=True, undefined=StrictUndefined
    )
    found = shown(page_data(tables))
    return environment.get_template("page.html").render(
        page=found,
        data=embedded(
            {name: value for name, value in found.items() if name != "downloads"}
        ),  # once is enough
        style=_own("page.css"),
        script=_own("page.js"),
        plotly=_plotly(),
        version=package_version("fedprofit"),
    )


def shown(value: Any) -> Any:
    r"""Return a JSON-like value with the control characters of all its texts escaped.

    >>> shown({"clients": ["a\u202eb", 1]})
    {'clients': ['a\\u202eb', 1]}
    """
    if isinstance(value, dict):
        return {shown(key): shown(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [shown(held) for held in value]
    return printable(value) if isinstance(value, str) else value


def embedded(value: object) -> str:
    r"""Return JSON that may stand inside a script element, whatever texts it holds.

    >>> print(embedded("</script><!--"))
    "\u003c/script\u003e\u003c!--"
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _own(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
