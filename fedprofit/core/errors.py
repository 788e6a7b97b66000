"""The one kind of error that is the user's to mend.

Every problem with input (a configuration, a file, a model name, a client's data) is raised as
`UserError` with a one-paragraph message: what is wrong, where, the value seen, and what to do.
The command line prints that paragraph and exits with status 2; from Python it is an exception
like any other. Anything else that escapes is a defect of the program.
"""

import difflib
import re
from collections.abc import Iterable

# What a terminal obeys instead of showing (C0, C1), what turns the direction of reading, what ends a line
# unseen, and halves of characters, which no encoding writes.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
MOST_SHOWN = 80  # characters of a value in a message
LONGEST_REASON = 200  # characters of another library's message


class UserError(Exception):
    """A problem that the user can mend; its message names the place, the value and the remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Escape the control characters of a text that is shown to people; tabs and ends of lines stay.

    >>> print(printable("a\x1b[2Jb\u202ec\r"))
    a\x1b[2Jb\u202ec\r
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to a mistyped one, or lists them all.

    >>> nearest("capitol", ["capital", "currency"])
    "did you mean 'capital'?"
    >>> nearest("xyz", ["capital", "currency"])
    'known: capital, currency'
    """
    known, word = list(known), cut(word)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text, or its beginning if it has more characters than a message should show.

    >>> cut("rate"), cut("x" * 100, most=5)
    ('rate', 'xxxx…')
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def first_line(error: BaseException, with_type: bool = False) -> str:
    """Return the first line of an error's text, or the error's type where it has no text.

    >>> first_line(MemoryError()), first_line(ValueError("one\\ntwo"), with_type=True)
    ('MemoryError', 'ValueError: one')
    """
    name, lines = type(error).__name__, str(error).strip().splitlines()
    if not lines:
        return name
    return cut(f"{name}: {lines[0]}" if with_type else lines[0], LONGEST_REASON)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that of an allocator; torch's is a RuntimeError, known by its text only.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    texts = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
