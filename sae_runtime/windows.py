"""Documents as token windows: nothing is truncated, and each token is counted in exactly one window."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
from torch import Tensor

from assay.schemas.errors import AssayError


class Window(NamedTuple):
    """A run of a document's tokens for one forward pass."""

    document: int
    """index of the document in its chunk"""
    start: int
    """position of the window's first token in the document"""
    fresh: int
    """tokens before this index repeat the window before it: they give context and aren't counted"""
    ids: Sequence[int]


class Tokens(NamedTuple):
    """One tokenised document."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """(start, end) of each token in the text, in code points"""


class Tokenizer:
    """The checkpoint's own fast tokenizer; special tokens that stand in a text are ordinary text to it."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as e:
            raise AssayError(f"can't read the tokenizer: {e}", where=str(folder / "tokenizer.json")) from e
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without BOS or EOS. Releases the GIL while it works."""
        whole = [_without_surrogates(text) for text in texts]
        return [e.ids for e in self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)]

    def encode_with_offsets(self, text: str) -> Tokens:
        """Token ids and code-point offsets of one text.

        A tokenizer that composes characters first (NFC) points at the base letter; the marks that went into it are
        put to its span.
        """
        encoding = self._tokenizer.encode(_without_surrogates(text), add_special_tokens=False)
        starts = {start for start, _ in encoding.offsets}
        return Tokens(encoding.ids, [(start, _past_marks(text, end, starts)) for start, end in encoding.offsets])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, for labels."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _past_marks(text: str, end: int, starts: set[int]) -> int:
    """`end` moved behind combining marks that no token starts at."""
    while end < len(text) and end not in starts and unicodedata.combining(text[end]):
        end += 1
    return end


def _without_surrogates(text: str) -> str:
    """Half of a UTF-16 pair is no character; it is read as U+FFFD, and offsets stay as they are."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def cut_windows(document: int, ids: Sequence[int], window: int, overlap: int) -> list[Window]:
    """Windows of at most `window` tokens, each starting `overlap` tokens before the last one's end."""
    windows = [Window(document, 0, 0, ids[:window])] if ids else []
    start = 0
    while start + window < len(ids):
        start += window - overlap
        windows.append(Window(document, start, overlap, ids[start : start + window]))
    return windows


def make_batches(windows: Sequence[Window], batch_tokens: int) -> list[list[Window]]:
    """Batches of at most `batch_tokens` padded tokens (or one window), longest first, so that little is padding."""
    batches: list[list[Window]] = []
    for window in sorted(windows, key=lambda w: (-len(w.ids), w.document, w.start)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].ids) <= batch_tokens:
            batches[-1].append(window)
        else:
            batches.append([window])
    return batches


def pad(batch: Sequence[Window]) -> Tensor:
    """ids_BT, padded with 0 on the right."""
    ids_BT = torch.zeros(len(batch), len(batch[0].ids), dtype=torch.long)
    for row, window in enumerate(batch):
        ids_BT[row, : len(window.ids)] = torch.as_tensor(window.ids, dtype=torch.long)
    return ids_BT
