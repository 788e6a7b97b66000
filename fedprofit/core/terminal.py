"""The terminal: what is printed there is text, whatever it holds."""

from typing import Any

from rich.console import Console
from rich.text import Text

from fedprofit.core.errors import printable


class Terminal(Console):
    """A console for users' own names and texts: brackets are no markup, and control characters are shown."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string; all that is printed, in tables too, comes by here."""
        return super().render_str(printable(text), **options)
