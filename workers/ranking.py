"""The order in which a stage takes documents: a 64-bit key each, from the document alone, so that no other moves it."""

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.workers.expressions import Interval

Keys = NDArray[np.uint64]
_LAST = np.uint32(0xFFFFFFFF)
_CACHE_BYTES = 256 * 2**20


def hash_keys(ids: pa.ChunkedArray, seed: int) -> Keys:
    """The first 64 bits of SHA-256 of the seed, a zero byte and the document's id: even over [0, 2**64)."""
    prefix = hashlib.sha256(b"%d\0" % seed)
    keys = bytearray()
    for chunk in ids.cast(pa.binary()).chunks:
        for value in chunk.to_pylist():
            state = prefix.copy()
            state.update(value)
            keys += state.digest()[:8]
    return np.frombuffer(bytes(keys), ">u8").astype(np.uint64)


def score_keys(score: Interval, hashes: Keys) -> Keys:
    """Keys by falling score, rounded to float32, ties by hash; a document whose score is unknown comes last."""
    exact = score.low == score.high
    with np.errstate(over="ignore"):
        value = np.where(exact, score.low, 0.0).astype(np.float32) + np.float32(0.0)  # -0 becomes 0
    bits = value.view(np.uint32)
    rising = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(2**31))
    falling = np.where(exact, np.minimum(~rising, _LAST - np.uint32(1)), _LAST)
    return (falling.astype(np.uint64) << np.uint64(32)) | (hashes >> np.uint64(32))


class HashCache:
    """Hashes of shards' ids, up to 256 MB; what doesn't fit is hashed again."""

    def __init__(self) -> None:
        self._kept: dict[str, Keys] = {}
        self._room = _CACHE_BYTES

    def find(self, shard: str) -> Keys | None:
        """The shard's keys, if they are kept."""
        return self._kept.get(shard)

    def keep(self, shard: str, keys: Keys) -> None:
        """Keeps them if there is room."""
        if keys.nbytes <= self._room:
            self._room -= keys.nbytes
            self._kept[shard] = keys
