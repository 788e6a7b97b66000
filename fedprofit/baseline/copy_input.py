"""The input as the answer: the score of repeating the input's words."""

from collections.abc import Sequence

from fedprofit.baseline.base import AnswerOf, BaselineContext, BaselineSettings
from fedprofit.core.types import ClientId, Example
from fedprofit.data.template import input_of


class CopyInput(BaselineSettings, kind="copy_input"):
    """The example's input, copied."""

    def answer(self, context: BaselineContext, clients: Sequence[ClientId]) -> AnswerOf:
        """Decode the input of each example."""
        decode = context.engine.backbone.tokenizer.decode

        def answer(client: ClientId, is_own: bool, example: Example) -> str:
            return input_of(str(decode(example.source, skip_special_tokens=True)))

        return answer
