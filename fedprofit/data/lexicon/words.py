"""Single nouns and lists of nouns: the plural, and programs on letters and words.

The nouns are the one-word English names of emojis. The programs follow the category "Program Execution" of
Super-NaturalInstructions, in which many programs are applied to the same list.
"""

import re
from collections.abc import Callable
from functools import cache

from fedprofit.core.seeding import numpy_generator
from fedprofit.data.lexicon.emojis import nouns as emoji_nouns
from fedprofit.data.lexicon.task import Group, Task

# One-word emoji names that are not countable English nouns in the singular; those in -s are excluded anyway.
_NOT_COUNTED = """
    badminton bacon biohazard bowling bread broccoli butter camping construction cooking copyright
    custard dango divide dizzy dna dvd fire fog foggy fondue garlic hamsa ice information infinity
    kaaba khanda lacrosse locked luggage mate merperson minus moai multiply oden plus popcorn
    prohibited radioactive registered sake salt selfie soap softball spaghetti splatter sushi
    unlocked volleyball warning wireless wood yarn
"""
NOT_COUNTED = frozenset(_NOT_COUNTED.split())
PLURALS = {
    **{
        "man": ["men"],
        "woman": ["women"],
        "snowman": ["snowmen"],
        "child": ["children"],
        "person": ["people"],
    },
    **{"foot": ["feet"], "tooth": ["teeth"], "goose": ["geese"], "mouse": ["mice"], "ox": ["oxen"]},
    **{"wolf": ["wolves"], "elf": ["elves"], "scarf": ["scarves", "scarfs"]},
    **{word: [word] for word in ("deer", "moose", "bison")},
    **{word: [word, word + "es"] for word in ("fish", "blowfish", "jellyfish")},
    **{word: [word, word + "s"] for word in ("shrimp", "squid")},
    **{word: [word + "es"] for word in ("potato", "tomato", "mosquito", "tornado", "volcano", "mango")},
    "cactus": ["cacti", "cactuses"],
    "octopus": ["octopuses", "octopi"],
    "hippopotamus": ["hippopotamuses", "hippopotami"],
}
LISTS = 400


@cache
def nouns() -> dict[str, str]:
    """Map each countable noun of three letters or more, in the singular, to itself."""
    return {
        noun: noun
        for noun in emoji_nouns()
        if len(noun) > 2 and noun not in NOT_COUNTED and (noun[-1] != "s" or noun[-2:] in ("ss", "us", "os"))
    }


def plural(noun: str) -> list[str]:
    """Return the accepted plurals of an English noun, the usual one first.

    >>> plural("cherry"), plural("box"), plural("mouse")
    (['cherries'], ['boxes'], ['mice'])
    """
    if noun in PLURALS:
        return PLURALS[noun]
    if re.search("[^aeiou]y$", noun):
        return [noun[:-1] + "ies"]
    return [noun + ("es" if re.search("(s|x|z|ch|sh)$", noun) else "s")]


@cache
def lists() -> dict[str, list[str]]:
    """Map lists, written with commas, of four to six different nouns to their words.

    Short nouns, one of them longer than the others, so that every program has one answer.
    """
    short = [noun for noun in nouns() if len(noun) < 8]
    found: dict[str, list[str]] = {}
    number = 0
    while len(found) < LISTS:
        draw = numpy_generator(0, "lexicon", "list", number)
        words = [str(word) for word in draw.choice(short, size=int(draw.integers(4, 7)), replace=False)]
        lengths = sorted(map(len, words))
        if lengths[-1] > lengths[-2]:
            found[", ".join(words)] = words
        number += 1
    return found


def pig_latin(word: str) -> str:
    """Move the consonants before the first vowel to the end and add "ay"; "way" after a vowel.

    >>> pig_latin("glove"), pig_latin("apple")
    ('oveglay', 'appleway')
    """
    head = re.match("[^aeiou]*", word).group()  # type: ignore[union-attr]
    return word[len(head) :] + head + "ay" if head else word + "way"


_NOUN = "In this task, you are given an English noun."


def _word(name: str, ask: str, answer: Callable[[str], str]) -> Task:
    return Task(name, "words", f"{_NOUN} {ask}", lambda word: [answer(word)])


def _list(name: str, ask: str, answer: Callable[[list[str]], list[str]]) -> Task:
    definition = f"In this task, you are given a list of words, separated by commas. {ask}"
    return Task(name, "programs", definition, lambda words: [", ".join(answer(words))])


GROUPS = (
    Group(
        "nouns",
        nouns,
        (
            Task("noun_plural", "words", f"{_NOUN} Answer with its plural.", plural),
            _word(
                "noun_reversed",
                "Write its letters in reverse order, as one word.",
                lambda word: word[::-1],
            ),
            _word(
                "noun_without_vowels",
                "Leave out the letters a, e, i, o and u and write what remains, as one word.",
                lambda word: re.sub("[aeiou]", "", word),
            ),
            _word("noun_spelled", "Spell it: write its letters one by one, separated by spaces.", " ".join),
            _word(
                "noun_pig_latin",
                "Say it in Pig Latin: move the consonants before the first vowel (a, e, i, o or u) to the "
                "end and add 'ay'; if the word begins with a vowel, only add 'way'.",
                pig_latin,
            ),
        ),
    ),
    Group(
        "lists",
        lists,
        (
            _list(
                "list_reversed",
                "Write the list in reverse order, separated by commas.",
                lambda words: words[::-1],
            ),
            _list("list_sorted", "Write the list in alphabetical order, separated by commas.", sorted),
            _list(
                "list_every_second",
                "Write the second word, the fourth word and so on, separated by commas.",
                lambda words: words[1::2],
            ),
            _list(
                "list_longest",
                "Answer with the word that has the most letters.",
                lambda words: [max(words, key=len)],
            ),
            _list(
                "list_initials",
                "Answer with the first letter of each word, in the order of the list, separated by commas.",
                lambda words: [word[0] for word in words],
            ),
            _list(
                "list_rotated",
                "Move the first word to the end of the list and write the list, separated by commas.",
                lambda words: [*words[1:], words[0]],
            ),
        ),
    ),
)
