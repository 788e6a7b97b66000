"""The one kind of error that is the user's to mend.

Every problem with input (a configuration, a file, a model name, a client's data) is raised as
`UserError` with a one-paragraph message: what is wrong, where, the value seen, and what to do.
The command line prints that paragraph and exits with status 2; from Python it is an exception
like any other. Anything else that escapes is a defect of the program.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem that the user can mend; its message names the place, the value and the remedy."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to a mistyped one, or lists them all.

    >>> nearest("capitol", ["capital", "currency"])
    "did you mean 'capital'?"
    >>> nearest("xyz", ["capital", "currency"])
    'known: capital, currency'
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)
