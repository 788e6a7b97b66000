"""From an instance to tokens, after Super-NaturalInstructions' own evaluation.

    Definition: {definition}

    Positive Example 1 -
    Input: {input}
    Output: {output}

    Now complete the following example -
    Input: {input}
    Output:{target}

Up to and with "Now complete …" is the *prefix*, equal for all instances of a task and computed once for
many rows. "Input: … Output:" is the *source*. The *target* begins with the space behind "Output:", as
tokenizers expect a word to begin, and ends with the end-of-sequence token. Each part is tokenized by
itself, so that a prefix has the same tokens in front of every row. Without definition and examples
there is no prefix: the prompt must carry the task alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedprofit.data.settings import TemplateConfig
from fedprofit.errors import UserError
from fedprofit.types import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUE = "\nOutput:"


@dataclass(frozen=True)
class Instance:
    """The texts of one instance."""

    definition: str
    positives: Sequence[tuple[str, str]]
    input: str
    target: str


def definition_text(definition: str) -> str:
    """Return "Definition: …" with a final period where one is missing.

    >>> definition_text("Name the capital")
    'Definition: Name the capital.'
    """
    definition = definition.strip()
    return f"Definition: {definition}" + ("" if definition.endswith((".", "!", "?")) else ".")


def prefix_text(definition: str, positives: Sequence[tuple[str, str]]) -> str:
    """Return the text in front of a task's instances; "" if there is neither definition nor example.

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
    return "\n\n".join([*parts, "Now complete the following example -\n"]) if parts else ""


class Template:
    """Turns instances into tokens with one tokenizer; prefixes are tokenized once each."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: TemplateConfig, eos: int) -> None:
        """Take the tokenizer, the settings, and the token that ends a target."""
        self._tokenizer, self._settings, self._eos = tokenizer, settings, eos
        begin = tokenizer.bos_token_id
        begins = begin is not None and begin in tokenizer("")["input_ids"]
        self._begin = [begin] if begins else []
        field, self._cue = self._ids(["Input:", CUE])
        self._least = len(field) + 1  # tokens of "Input: …" that say something of the input
        self._prefixes: dict[str, Tokens] = {}
        self.trimmed: list[bool] = []  # of each instance, whether it lost examples or a part of its input

    def encode(self, instances: Sequence[Instance]) -> list[tuple[Tokens, Tokens, Tokens]]:
        """Return (prefix, source, target) of each instance.

        What is longer than `max_tokens` loses the definition's examples first, the last one foremost,
        then the input's end; never the cue and never the target. Raises UserError, naming the
        instance, if it still does not fit.
        """
        sources = self._ids([f"Input: {instance.input.strip()}" for instance in instances])
        targets = self._ids([f" {instance.target.strip()}" for instance in instances])
        return [
            self._fit(instance, source, [*target, self._eos])
            for instance, source, target in zip(instances, sources, targets, strict=True)
        ]

    def _fit(self, instance: Instance, source: list[int], target: list[int]) -> tuple[Tokens, Tokens, Tokens]:
        limit = self._settings.max_tokens
        fixed = len(self._cue) + len(target)
        definition = instance.definition if self._settings.definition else ""
        examples = list(instance.positives[: self._settings.positive_examples])
        whole = len(examples)
        prefix = self._prefix(definition, examples)
        while examples and len(prefix) + len(source) + fixed > limit:
            examples.pop()
            prefix = self._prefix(definition, examples)
        room = limit - len(prefix) - fixed
        if room < min(len(source), self._least):
            raise UserError(
                f"data.template: the instance with input {instance.input[:60]!r} has {len(prefix)} tokens of "
                f"definition and {len(target)} of target, so nothing of its input fits into max_tokens = "
                f"{limit}. Raise data.template.max_tokens, or set data.template.definition to false."
            )
        self.trimmed.append(room < len(source) or len(examples) < whole)
        body = np.array(source[:room] + self._cue, dtype=np.int32)
        return prefix, body, np.array(target, dtype=np.int32)

    def _prefix(self, definition: str, examples: Sequence[tuple[str, str]]) -> Tokens:
        text = prefix_text(definition, examples)
        if text not in self._prefixes:
            ids = self._begin + (self._ids([text])[0] if text else [])
            self._prefixes[text] = np.array(ids, dtype=np.int32)
        return self._prefixes[text]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids
