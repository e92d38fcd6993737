"""A byte n-gram model with Witten-Bell interpolation: what counting alone reaches in bits per byte."""

from __future__ import annotations

import numpy as np


class ByteNgram:
    """Counts all n-grams up to `order` (at most 7) in training bytes, then scores other bytes.

    P_n(c | ctx) = (count(ctx c) + types(ctx) P_{n-1}(c | ctx')) / (count(ctx) + types(ctx)), P_0 = 1/256.
    """

    def __init__(self, training: bytes, order: int = 5) -> None:
        if not 1 <= order <= 7:
            raise ValueError(f"order must be from 1 to 7, got {order}")
        self.order = order
        self._grams: list[tuple[np.ndarray, np.ndarray]] = []
        self._contexts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for n in range(1, order + 1):
            grams, counts = np.unique(_codes(training, n), return_counts=True)
            contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
            types = np.diff(np.append(first, len(grams)))
            totals = np.add.reduceat(counts, first)
            self._grams.append((grams, counts))
            self._contexts.append((contexts, totals, types))

    def bits_per_byte(self, text: bytes) -> float:
        """Gives the mean -log2 P over the bytes of `text`, leaving out the first order - 1 of them."""
        skip = self.order - 1
        probability = np.full(len(text) - skip, 1 / 256)
        for n in range(1, self.order + 1):
            codes = _codes(text, n)[skip - (n - 1) :]
            count = _look_up(*self._grams[n - 1], codes)
            contexts, totals, types = self._contexts[n - 1]
            total = _look_up(contexts, totals, codes >> np.uint64(8))
            kinds = _look_up(contexts, types, codes >> np.uint64(8))
            seen = total > 0
            mixed = (count + kinds * probability) / np.maximum(total + kinds, 1)
            probability = np.where(seen, mixed, probability)
        return float(-np.log2(probability).mean())


def _codes(text: bytes, n: int) -> np.ndarray:
    """Packs each run of n bytes into one integer, first byte highest."""
    data = np.frombuffer(text, dtype=np.uint8).astype(np.uint64)
    codes = np.zeros(len(data) - n + 1, dtype=np.uint64)
    for position in range(n):
        codes = (codes << np.uint64(8)) | data[position : position + len(codes)]
    return codes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Gives values[i] where keys[i] == wanted, and 0 where no key does; keys are sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
