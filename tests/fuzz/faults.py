"""Faults in files, and the classification of their outcomes.

A part of the fuzzing is a function of a seed and a count that yields an `Outcome` per fault. To add one, add
it to `PARTS` in `__main__.py`. An attempt that exceeds its time limit counts as a hang.
"""

import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedprofit.core.errors import UserError

NOTICED = "reported"
AGAIN = "recreated"
UNCHANGED = "same meaning"
LOADED = "loaded"
SILENT = "silent change"
TRACEBACK = "traceback"
HANG = "hang"
GOOD, BAD = (NOTICED, AGAIN, UNCHANGED, LOADED), (SILENT, TRACEBACK, HANG)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one fault."""

    group: str  # what was damaged
    result: str  # one of GOOD and BAD
    detail: str = ""  # description of a bad outcome


class Hang(BaseException):
    """Raised when an attempt takes too long. A BaseException, so that the package does not catch it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hang in the main thread after some seconds."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(group: str, fault: str, act: Callable[[], str], place: str, seconds: float = 60.0) -> Outcome:
    """Run `act` with a fault and classify what it returns or raises.

    A UserError counts as reported only if it names `place`.
    """
    try:
        with limited(seconds):
            return Outcome(group, act(), fault)
    except UserError as error:
        named = place in str(error)
        return Outcome(
            group,
            NOTICED if named else TRACEBACK,
            fault if named else f"{fault}: the message does not name {place}: {error}",
        )
    except Hang:
        return Outcome(group, HANG, fault)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        return Outcome(group, TRACEBACK, f"{fault}: {type(error).__name__} at {where}: {str(error)[:100]}")


def flip(draw: random.Random, content: bytes) -> bytes:
    """Flip one bit."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def flips(draw: random.Random, content: bytes) -> bytes:
    """Flip eight bits."""
    for _ in range(8):
        content = flip(draw, content)
    return content


def truncate(draw: random.Random, content: bytes) -> bytes:
    """Cut off the end."""
    return content[: draw.randrange(len(content))]


def zero_block(draw: random.Random, content: bytes) -> bytes:
    """Overwrite a block with zeros, like a failing disk or a hole in a file."""
    start, size = draw.randrange(len(content)), draw.choice([4, 16, 64, 512])
    return (content[:start] + bytes(size) + content[start + size :])[: len(content)]


def swap_blocks(draw: random.Random, content: bytes) -> bytes:
    """Swap two blocks of the same size."""
    size = min(draw.choice([4, 16, 64, 512]), len(content) // 2)
    first, second = sorted(draw.randrange(len(content) // size) * size for _ in range(2))
    a, b = content[first : first + size], content[second : second + size]
    if first == second or len(a) != len(b):
        return content
    return content[:first] + b + content[first + size : second] + a + content[second + size :]


DAMAGES = (flip, flips, truncate, zero_block, swap_blocks)


def damaged(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage a file's content at random; return the name of the damage and the changed content."""
    while True:
        damage = draw.choice(DAMAGES)
        result = damage(draw, content)
        if result != content:
            return damage.__name__, result


def tabulate(title: str, outcomes: Iterable[Outcome], say: Callable[[str], Any] = print) -> int:
    """Print a row of counts per group and the first bad outcomes; return the number of bad ones."""
    began, rows, bad = time.monotonic(), dict[str, Counter[str]](), list[Outcome]()
    for one in outcomes:
        rows.setdefault(one.group, Counter())[one.result] += 1
        if one.result in BAD:
            bad.append(one)
    seen = [name for name in (*GOOD, *BAD) if name in BAD or any(row[name] for row in rows.values())]
    total = sum(rows.values(), Counter[str]())
    say(f"\n{title}: {total.total()} in {time.monotonic() - began:.0f} s")
    say("  ".join([f"{'':16}", f"{'count':>5}", *seen]))
    for group, row in [*sorted(rows.items()), ("all", total)]:
        say("  ".join([f"{group:16}", f"{row.total():5}", *(f"{row[name]:>{len(name)}}" for name in seen)]))
    for one in bad[:20]:
        say(f"{one.result}: {one.group}: {one.detail}")
    return len(bad)
