"""Text as words and words as 64-bit numbers: equal on every machine, whatever the order of work."""

import hashlib
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Scripts that are written without spaces: each of their letters counts as a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_REMEMBERED = 1_000_000


def normalise(text: str) -> str:
    """The text in NFKC, case folded, each run of white space one space: what exact copies agree in."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())  # folding may leave letters decomposed


class _Known(dict[str, int]):
    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[word] = value
        return value


class WordHasher:
    """Words of a normalised text as 64-bit hashes; punctuation is no word. Remembers a million words at most."""

    def __init__(self) -> None:
        self._known = _Known()

    def __call__(self, normal: str) -> Hashes:
        """One hash a word, in order; a text without a word has none."""
        words = _WORD.findall(normal)
        return np.fromiter(map(self._known.__getitem__, words), np.uint64, len(words))


def mix(values: Hashes) -> Hashes:
    """A bijection that spreads every bit over all 64 (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def runs(words: Hashes, length: int) -> Hashes:
    """A hash for each run of `length` words, in order; a shorter text that has words is one run."""
    length = min(length, len(words))
    if not length:
        return np.zeros(0, np.uint64)
    count = len(words) - length + 1
    total = np.full(count, length, np.uint64)
    for start in range(length):
        total = mix(total + np.uint64(0x9E3779B97F4A7C15)) ^ words[start : start + count]
    return mix(total)
