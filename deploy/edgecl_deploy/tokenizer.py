"""CLIP's byte-pair encoding, with the standard library and numpy.

Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020; the merges are Sennrich et al.'s, ACL
2016, https://arxiv.org/abs/1508.07909. It returns what open_clip's tokenizer returns for every
text that ftfy changes in quotes and composition only; ftfy's other repairs (mojibake, ligatures,
full-width letters, control characters) are not made here.
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from edgecl_deploy.errors import OptionError, shown
from edgecl_deploy.format import Merges

START, END = "<start_of_text>", "<end_of_text>"
_WORD_END = "</w>"  # closes the last symbol of a word
# These are words of their own wherever a word may begin; the rest is split by kind.
_FIXED = re.compile(rf"{START}|{END}|'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
_STRAIGHT = {ord(quote): "'" for quote in "ʼ‘’‚‛"} | {ord(quote): '"' for quote in "“”„‟"}
# U+0345 is no letter, but its upper case is one, so that CLIP's pattern passes it over.
_BETWEEN = " \u0345"


class Tokenizer:
    """Turns texts into tokens: [start], the text's tokens, [end], then zeros.

    Args:
        merges: The pairs, the first to be merged first.
        context_length: Tokens of a text at most.
    """

    def __init__(self, merges: Merges, context_length: int) -> None:
        self.context_length = context_length
        symbols = _byte_symbols()
        self._byte = dict(symbols)
        words = [symbol for _, symbol in symbols]
        words += [symbol + _WORD_END for symbol in words]
        words += ["".join(pair) for pair in merges]
        self._ids = {symbol: i for i, symbol in enumerate(words)}
        self._ranks = {pair: i for i, pair in enumerate(merges)}
        self.start, self.end = len(words), len(words) + 1
        self._special = {START: self.start, END: self.end}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenise texts, as long as the longest of them.

        Args:
            texts: At least one.

        Returns:
            int64 [b, n].

        Raises:
            OptionError: A text is too long, or holds the end mark, where CLIP's own tokenizer
                would cut it.
        """
        rows = [[self.start, *self.encode(text), self.end] for text in texts]
        inside = [text for text, row in zip(texts, rows, strict=True) if row.count(self.end) > 1]
        if inside:
            raise OptionError(
                f"a text must not hold {END}, after which CLIP reads nothing",
                shown(inside[0]),
                "Change the class name or the template.",
            )
        longest = max(map(len, rows))
        if longest > self.context_length:
            text = texts[[len(row) for row in rows].index(longest)]
            raise OptionError(
                f"a text must have at most {self.context_length} tokens with start and end",
                f"{longest} in {shown(text)}",
                "Shorten the class name or the template.",
            )
        tokens = np.zeros((len(rows), longest), np.int64)
        for row, found in zip(tokens, rows, strict=True):
            row[: len(found)] = found
        return tokens

    def encode(self, text: str) -> list[int]:
        """Return the tokens of one text, without start and end."""
        return [token for word in _words(_clean(text)) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word in self._special:
            return [self._special[word]]
        parts = [self._byte[byte] for byte in word.encode()]
        parts[-1] += _WORD_END
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = _merged(parts, best)
        return [self._ids[part] for part in parts]


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    at = 0
    while at < len(parts):
        step = 2 if tuple(parts[at : at + 2]) == pair else 1
        merged.append("".join(parts[at : at + step]))
        at += step
    return merged


def _byte_symbols() -> list[tuple[int, str]]:
    """Return a printable character for every byte, in the order of their tokens.

    Visible Latin-1 characters map to themselves and come first; the others get the characters
    from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [(byte, chr(byte)) for byte in visible] + [
        (byte, chr(256 + i)) for i, byte in enumerate(hidden)
    ]


def _clean(text: str) -> str:
    straight = unicodedata.normalize("NFC", text.translate(_STRAIGHT))
    return " ".join(html.unescape(html.unescape(straight)).split()).lower()


def _words(text: str) -> Iterator[str]:
    """Split a text into fixed words, runs of letters, single digits, and runs of all else."""
    at = 0
    while at < len(text):
        fixed = _FIXED.match(text, at)
        kind = _kind(text[at])
        end = at + 1 if fixed is None else fixed.end()
        if fixed is None and kind != "N":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind:
            yield text[at:end]
        at = end


def _kind(character: str) -> str:
    if character in _BETWEEN:
        return ""
    major = unicodedata.category(character)[0]
    return major if major in "LN" else "P"
