"""Exact copies: 128 bits of SHA-256 over the normalised text."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from assay.workers.dedup.words import Hashes


def text_key(normal: str) -> bytes:
    """16 bytes that equal texts share; of 10^12 texts two different ones collide with a chance of 10^-15."""
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest()[:16]


def split_keys(keys: bytes) -> tuple[Hashes, NDArray[np.uint8]]:
    """Concatenated 16-byte keys of N documents as what is shuffled by and the rest: [N] and [N, 8]."""
    halves = np.frombuffer(keys, "<u8").reshape(-1, 2)
    return halves[:, 0].astype(np.uint64), np.ascontiguousarray(halves[:, 1:]).view(np.uint8)


def equal(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """1.0 where the rests of two keys are equal, else 0.0."""
    return (left == right).all(1).astype(np.float64)
