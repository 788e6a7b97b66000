"""The configuration's part on what a client owns."""

from typing import Literal, Self

from pydantic import model_validator

from fedprofit.config.base import Positive, Section


class TunerConfig(Section):
    """What a client owns: a soft prompt, one initialization for all."""

    kind: Literal["prompt"] = "prompt"
    length: Positive = 20
    init: Literal["vocabulary", "text"] = "vocabulary"
    text: str | None = None

    @model_validator(mode="after")
    def _text_is_given(self) -> Self:
        if (self.init == "text") != (self.text is not None):
            raise ValueError("init: text needs a text, and no other init takes one")
        return self
