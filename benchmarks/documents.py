"""Documents of known length in a made-up language: the same ones on every machine, and a real tokenizer for them."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

Kind = Literal["tweets", "web", "books"]
KINDS: tuple[Kind, ...] = ("tweets", "web", "books")

_LEXICON = 20_000
_SEED = 7
_END_OF_TEXT = "<|endoftext|>"
_SHORTEST_BOOK = 200  # tokens beyond the first window


class Document(NamedTuple):
    """A text and its length."""

    text: str
    tokens: int


@cache
def lexicon() -> tuple[list[str], np.ndarray]:
    """Distinct made-up words and their cumulative probabilities, which follow Zipf's law."""
    rng = np.random.default_rng(_SEED)
    onsets = ["b", "br", "d", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr", "v", "z"]
    cores = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
    codas = ["", "", "n", "r", "s", "l", "t", "nd", "rk"]
    syllables = [onset + core + coda for onset in onsets for core in cores for coda in codas]
    words: dict[str, None] = {}
    while len(words) < _LEXICON:
        length = 1 + int(rng.binomial(3, 0.4))
        words["".join(syllables[s] for s in rng.integers(len(syllables), size=length))] = None
    weights = 1 / (np.arange(_LEXICON) + 2.7)
    return list(words), np.cumsum(weights / weights.sum())


def save_tokenizer(folder: Path, vocab: int) -> None:
    """A byte-level BPE tokenizer of at most `vocab` tokens, trained on the language, as a checkpoint has it."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words, cumulative = lexicon()
    drawn = np.searchsorted(cumulative, np.random.default_rng(_SEED + 1).random(200_000))
    text = (" ".join(words[w] for w in drawn[i : i + 100]) + "." for i in range(0, len(drawn), 100))
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END_OF_TEXT, "pad_token": _END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


class Writer:
    """Writes samples of a kind of document; the same arguments give the same texts."""

    def __init__(self, tokenizer_folder: Path, window: int, seed: int = 0) -> None:
        """`window` is the length beyond which a document is windowed: no web page is longer, every book is."""
        self.window = window
        self.seed = seed
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        words, _ = lexicon()
        # A byte-level tokenizer splits at spaces first, so the tokens of a text are the sum over its words.
        self._inside = self._lengths([f" {word}" for word in words])
        self._opening = self._lengths([f" {word.capitalize()}" for word in words])
        self._first = self._lengths([word.capitalize() for word in words])

    def sample(self, kind: Kind, tokens: int, fewest: int = 1) -> list[Document]:
        """As many documents as make about `tokens` in all, but at least `fewest`, in random order.

        Their lengths are the kind's quantiles at which a random sample has its documents on average (i of n at
        i / (n + 1)), so that small samples are alike. A single book is cut to `tokens`, but keeps two windows.
        """
        average = np.mean([self._length(kind, (i + 0.5) / 1000) for i in range(1000)])
        count = max(fewest, int(tokens / average))
        lengths = [self._length(kind, i / (count + 1)) for i in range(1, count + 1)]
        if kind == "books" and count == 1:
            lengths = [min(lengths[0], max(tokens, self.window + _SHORTEST_BOOK))]
        key = [self.seed, KINDS.index(kind)]
        order = np.random.default_rng([*key, count]).permutation(count)
        return [self._write(np.random.default_rng([*key, count, i]), lengths[i]) for i in order]

    def _length(self, kind: Kind, quantile: float) -> int:
        """Tokens of a document at this quantile of its kind: uniform for tweets, log-normal for the others."""
        if kind == "tweets":
            return 5 + int(36 * quantile)
        deviations = NormalDist().inv_cdf(quantile)
        if kind == "web":
            return int(np.clip(200 * np.exp(0.9 * deviations), 5, self.window))
        return int(np.clip(8 * self.window * np.exp(0.5 * deviations), 3 * self.window, 40 * self.window))

    def _write(self, rng: np.random.Generator, length: int) -> Document:
        """Sentences of 4 to 24 words; stops at the last word that keeps the text within `length` tokens."""
        words, cumulative = lexicon()
        drawn = np.searchsorted(cumulative, rng.random(length + 1))
        parts: list[str] = []
        tokens, in_sentence = 0, 0
        for word in drawn:
            lengths = self._inside if in_sentence else self._opening if parts else self._first
            end = in_sentence == 0 and bool(parts)
            if tokens + lengths[word] + end > length:
                if parts:
                    break
                continue  # a text has at least one word
            if end:
                parts.append(".")
            parts.append(words[word] if in_sentence else words[word].capitalize())
            tokens += int(lengths[word]) + end
            in_sentence = in_sentence - 1 if in_sentence else int(rng.integers(3, 24))
        text = "".join(part if part == "." or i == 0 else f" {part}" for i, part in enumerate(parts))
        return Document(text, tokens)

    def _lengths(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(e.ids) for e in self._tokenizer.encode_batch(list(texts))])
