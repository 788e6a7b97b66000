"""Conversion of an instance to tokens, following the evaluation of Super-NaturalInstructions.

    Definition: {definition}

    Positive Example 1 -
    Input: {input}
    Output: {output}

    Now complete the following example -
    Input: {input}
    Output:{target}

The *prefix* ends with "Now complete …". It is equal for all instances of a task and computed once for many
rows. "Input: … Output:" is the *source*. The *target* begins with the space after "Output:", as words do for
tokenizers, and ends with the end-of-sequence token. A prefix has the same tokens before every row. Without
definition and examples there is no prefix: only the tuner's parameters describe the task.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fedprofit.core.errors import UserError
from fedprofit.core.types import Tokens
from fedprofit.data.settings import TemplateConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIELD, CUE = "Input:", "\nOutput:"
BETWEEN = "\n\n"  # between two examples in context
PREFIX_END = "following example -\n"  # end of every prefix
COMPARED = 64  # number of texts whose tokens are compared with those of the joined text


@dataclass(frozen=True)
class Instance:
    """The texts of one instance."""

    definition: str
    positives: Sequence[tuple[str, str]]
    input: str
    target: str


def definition_text(definition: str) -> str:
    """Return "Definition: …", ending with a period.

    >>> definition_text("Name the capital")
    'Definition: Name the capital.'
    """
    definition = definition.strip()
    return f"Definition: {definition}" + ("" if definition.endswith((".", "!", "?")) else ".")


def prefix_text(definition: str, positives: Sequence[tuple[str, str]]) -> str:
    """Return the text before a task's instances; "" if there is neither definition nor example.

    >>> print(prefix_text("Name the capital.", [("Chad", "N'Djamena")]), end="")
    Definition: Name the capital.
    <BLANKLINE>
    Positive Example 1 -
    Input: Chad
    Output: N'Djamena
    <BLANKLINE>
    Now complete the following example -
    """
    parts = [definition_text(definition)] if definition.strip() else []
    for number, (given, wanted) in enumerate(positives, 1):
        parts.append(f"Positive Example {number} -\nInput: {given.strip()}\nOutput: {wanted.strip()}")
    return "\n\n".join([*parts, f"Now complete the {PREFIX_END}"]) if parts else ""


def input_of(source: str) -> str:
    """Return the input in the text of a source.

    >>> input_of("Input: Chad\\nOutput:")
    'Chad'
    """
    return source.strip().removeprefix(FIELD).removesuffix(CUE.strip()).strip()


class Template:
    """Converts instances to tokens with one tokenizer; each prefix is tokenized once.

    The joined tokens of prefix, source and target are those of the joined text. A part is tokenized after the
    end of the previous text (its anchor), so that a tokenizer that begins every text with a blank adds none
    in between. If a tokenizer merges characters across two parts, the tokens differ: `differing` counts such
    texts among the first `checked`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: TemplateConfig, eos: int) -> None:
        """Store the tokenizer, the settings, and the token that ends a target."""
        self._tokenizer, self._settings, self._eos = tokenizer, settings, eos
        # Tokens that are never text; the one for unknown characters may be.
        self._control = {
            number: str(tokenizer.convert_ids_to_tokens(number))
            for number in tokenizer.all_special_ids
            if number != tokenizer.unk_token_id
        }
        self._begin = self._before_texts()
        self._anchors = {anchor: self._ids([anchor])[0] for anchor in (PREFIX_END, FIELD, CUE)}
        self._cue = self._after(FIELD, [CUE])[0]
        self._least = len(self._ids([FIELD])[0]) + 1  # minimum tokens of "Input: …" with a part of the input
        self._prefixes: dict[str, Tokens] = {}
        self.trimmed: list[
            bool
        ] = []  # for each instance: whether examples or a part of its input were removed
        self.checked = self.differing = 0

    def encode(self, instances: Sequence[Instance]) -> list[tuple[Tokens, Tokens, Tokens]]:
        """Return (prefix, source, target) of each instance.

        If an instance exceeds `max_tokens`, examples are removed, the last one first, then the end of its
        input; never the cue or the target.

        Raises:
            UserError: an instance that still does not fit.
        """
        asked = [f"{FIELD} {instance.input.strip()}" for instance in instances]
        # The text before an input has the same end for all instances, or is empty.
        anchor = [PREFIX_END if self._prefix_text(instance) else "" for instance in instances]
        sources = self._after_each(anchor, [f"{text}{CUE}" for text in asked])
        targets = self._after(CUE, [f" {instance.target.strip()}" for instance in instances])
        return [
            self._fit(instance, source, [*target, self._eos])
            for instance, source, target in zip(instances, sources, targets, strict=True)
        ]

    def _fit(self, instance: Instance, source: list[int], target: list[int]) -> tuple[Tokens, Tokens, Tokens]:
        limit = self._settings.max_tokens
        examples = self._examples(instance)
        prefix = self._prefix(instance, examples)
        while examples and len(prefix) + len(source) + len(target) > limit:
            examples = examples[:-1]
            prefix = self._prefix(instance, examples)
        complete = len(examples) == len(self._examples(instance))
        if len(prefix) + len(source) + len(target) > limit:
            source, complete = self._cut(instance, prefix, target), False
        elif complete:
            self._compare(instance, [*prefix, *source, *target[:-1]])
        self.trimmed.append(not complete)
        return prefix, np.array(source, dtype=np.int32), np.array(target, dtype=np.int32)

    def _cut(self, instance: Instance, prefix: Tokens, target: list[int]) -> list[int]:
        """Return the source with its input truncated to the tokens that fit."""
        anchor = PREFIX_END if len(prefix) > len(self._begin) else ""
        asked = self._after(anchor, [f"{FIELD} {instance.input.strip()}"])[0]
        room = self._settings.max_tokens - len(prefix) - len(self._cue) - len(target)
        if room < min(len(asked), self._least):
            raise UserError(
                f"data.template: the instance with input {instance.input[:60]!r} has {len(prefix)} tokens of "
                f"definition and {len(target)} of target, so nothing of its input fits into max_tokens = "
                f"{self._settings.max_tokens}. Raise data.template.max_tokens, or set "
                "data.template.definition to false."
            )
        return asked[:room] + self._cue

    def _examples(self, instance: Instance) -> list[tuple[str, str]]:
        return list(instance.positives[: self._settings.positive_examples])

    def _prefix_text(self, instance: Instance, examples: Sequence[tuple[str, str]] | None = None) -> str:
        definition = instance.definition if self._settings.definition else ""
        return prefix_text(definition, self._examples(instance) if examples is None else examples)

    def _prefix(self, instance: Instance, examples: Sequence[tuple[str, str]]) -> Tokens:
        text = self._prefix_text(instance, examples)
        if text not in self._prefixes:
            ids = self._begin + (self._ids([text])[0] if text else [])
            self._prefixes[text] = np.array(ids, dtype=np.int32)
        return self._prefixes[text]

    def _compare(self, instance: Instance, ids: list[int]) -> None:
        """Compare the first instances' tokens with those of their joined text; count the differences."""
        if self.checked >= COMPARED:
            return
        self.checked += 1
        parts = (self._prefix_text(instance), f"{FIELD} {instance.input.strip()}{CUE}")
        joined = self._ids(["".join(parts) + f" {instance.target.strip()}"])[0]
        self.differing += [*self._begin, *joined] != ids

    def _before_texts(self) -> list[int]:
        """Return the tokens that the tokenizer puts before every text."""
        ids: list[int] = self._tokenizer(FIELD)["input_ids"]
        bare = self._ids([FIELD])[0]
        starts = range(len(ids) - len(bare) + 1)
        start = next((at for at in starts if ids[at : at + len(bare)] == bare), 0)
        return ids[:start]

    def _after_each(self, anchors: Sequence[str], texts: list[str]) -> list[list[int]]:
        if len(set(anchors)) == 1:
            return self._after(anchors[0], texts)
        return [self._after(*pair)[0] for pair in zip(anchors, ([text] for text in texts), strict=True)]

    def _after(self, anchor: str, texts: list[str]) -> list[list[int]]:
        """Tokenize texts after an anchor; the anchor's tokens are omitted."""
        if not anchor:
            return self._ids(texts)
        known = self._anchors[anchor]
        joined = self._ids([anchor + text for text in texts])
        # If the anchor's last characters merge with the text, the text is tokenized without anchor.
        return [
            ids[len(known) :] if ids[: len(known)] == known else self._ids([text])[0]
            for ids, text in zip(joined, texts, strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts; the spelling of a control token is ordinary text."""
        options = {"add_special_tokens": False, "split_special_tokens": True}
        found: list[list[int]] = self._tokenizer(texts, **options)["input_ids"]
        for number, ids in enumerate(found):
            if not self._control.keys().isdisjoint(ids):
                found[number] = self._spelled(texts[number], options)
        return found

    def _spelled(self, text: str, options: dict[str, bool]) -> list[int]:
        """Tokenize a text in pieces: every control token's spelling is divided after its first character."""
        spelled = "|".join(re.escape(word) for word in self._control.values() if len(word) > 1)
        cuts = [0, *(match.start() + 1 for match in re.finditer(spelled, text)), len(text)]
        pieces = [text[start:stop] for start, stop in pairwise(cuts)]
        ids = [one for piece in self._tokenizer(pieces, **options)["input_ids"] for one in piece]
        return [one for one in ids if one not in self._control]
