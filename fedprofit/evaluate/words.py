"""Tokens for ROUGE in any script; `rouge-score`'s own tokens consist of a to z and 0 to 9 only."""

from typing import Any
from unicodedata import normalize

import regex

# Scripts without spaces between words.
UNSPACED = (
    "Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tai_Le",
    "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese", "Balinese",
)  # fmt: skip
_SCRIPTS = "".join(rf"\p{{scx={name}}}" for name in UNSPACED)
_CHARACTER = rf"[[\p{{L}}\p{{Nl}}]&&[{_SCRIPTS}]]"
_WORD = rf"[[\p{{L}}\p{{N}}]--{_CHARACTER}][[\p{{L}}\p{{M}}\p{{N}}]--{_CHARACTER}]*"
_TOKEN = regex.compile(rf"{_CHARACTER}\p{{M}}*|{_WORD}", regex.VERSION1)
_SYMBOL = regex.compile(r"(?!\s)\X")
# Soft hyphen, joiners, direction marks, variation selectors: texts that differ only in them look alike.
_INVISIBLE = regex.compile(
    r"[\u00AD\u061C\u200B-\u200F\u202A-\u202E\u2060-\u2064\u2066-\u2069\uFE0E\uFE0F\uFEFF]"
)


class UnicodeTokenizer:
    """A tokenizer for `RougeScorer`: words and digits of any script, case folded.

    - A word is a run of letters and digits with their combining marks; punctuation and symbols separate.
    - In scripts without spaces each letter, with its marks, is a token.
    - A text without letters and digits has its symbols as tokens, so that "<" equals "<" and not ">".
    - Words of a to z and 0 to 9 become the tokens of `rouge-score`, stemmed as English: texts of such words
      have equal scores with both tokenizers.
    """

    def __init__(self) -> None:
        """Prepare `rouge-score`'s own tokenizer, for words of a to z and 0 to 9."""
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii: Any = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens; empty only for a blank text."""
        folded = normalize("NFC", normalize("NFC", text).casefold())
        visible = _INVISIBLE.sub("", folded)
        words: list[str] = _TOKEN.findall(visible)
        if not words:
            symbols: list[str] = _SYMBOL.findall(visible) or _SYMBOL.findall(folded)
            return symbols
        return [
            token for word in words for token in (self._ascii.tokenize(word) if word.isascii() else [word])
        ]
