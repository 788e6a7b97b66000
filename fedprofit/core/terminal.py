"""Console output without markup or control characters."""

from typing import Any

from rich.console import Console
from rich.text import Text

from fedprofit.core.errors import printable


class Terminal(Console):
    """A console for users' names and texts: brackets are literal, control characters are escaped."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich text; every printed string passes through here."""
        return super().render_str(printable(text), **options)
