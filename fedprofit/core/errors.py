"""`UserError`, the error type for problems that the user can fix.

Every problem with input (a configuration, a file, a model name, a client's data) raises `UserError` with a
one-paragraph message: what is wrong, where, the value found, and the remedy. The command line prints the
message and exits with status 2. Any other exception that escapes is a bug in the program.
"""

import difflib
import re
from collections.abc import Iterable

# Characters that a terminal interprets (C0, C1), that change the reading direction, that break lines, and
# lone surrogates, which cannot be encoded.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
MOST_SHOWN = 80  # maximum characters of a value in a message
LONGEST_REASON = 200  # maximum characters of another library's message


class UserError(Exception):
    """A problem that the user can fix. The message names the location, the value and the remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Escape control characters for display. Tabs and newlines are unchanged.

    >>> print(printable("a\x1b[2Jb\u202ec\r"))
    a\x1b[2Jb\u202ec\r
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known word closest to a mistyped one, or with all known words.

    >>> nearest("capitol", ["capital", "currency"])
    "did you mean 'capital'?"
    >>> nearest("xyz", ["capital", "currency"])
    'known: capital, currency'
    """
    known, word = list(known), cut(word)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """Truncate a text to `most` characters.

    >>> cut("rate"), cut("x" * 100, most=5)
    ('rate', 'xxxx…')
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def first_line(error: BaseException, with_type: bool = False) -> str:
    """Return the first line of an error message, or the error's type if the message is empty.

    >>> first_line(MemoryError()), first_line(ValueError("one\\ntwo"), with_type=True)
    ('MemoryError', 'ValueError: one')
    """
    name, lines = type(error).__name__, str(error).strip().splitlines()
    if not lines:
        return name
    return cut(f"{name}: {lines[0]}" if with_type else lines[0], LONGEST_REASON)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation. PyTorch raises a RuntimeError, recognized by its text.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    texts = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
