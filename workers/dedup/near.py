"""Near copies: MinHash signatures (by rensa), cut into bands to find candidates and into bytes to judge them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rensa
from numpy.typing import NDArray

from assay.schemas.dedup import NearCopies
from assay.workers.dedup.words import Hashes, mix

METHOD: int = rensa.RMinHash.ALGORITHM_VERSION
_SEED = 20_260_101
RECALL = 0.95


class Bands(NamedTuple):
    """How a signature is cut: `number` bands of `rows` values each; what is left over only judges."""

    number: int
    rows: int

    def chance(self, similarity: float) -> float:
        """How often two documents of this Jaccard similarity agree in a band at least: 1 - (1 - s^rows)^number."""
        return float(1 - (1 - similarity**self.rows) ** self.number)


def near_bands(spec: NearCopies) -> Bands:
    """The fewest false candidates that still find 95 % of the pairs that lie right at the threshold."""
    cuts = (Bands(spec.permutations // rows, rows) for rows in range(spec.permutations, 1, -1))
    return next((cut for cut in cuts if cut.chance(spec.threshold) >= RECALL), Bands(spec.permutations, 1))


def signatures(shingles: Sequence[Hashes], permutations: int) -> NDArray[np.uint32]:
    """MinHash signatures [N, permutations] of N sets of hashes, none of them empty.

    Entries of two signatures agree as often as the sets' Jaccard similarity says (rensa's R-MinHash).
    """
    if not shingles:
        return np.zeros((0, permutations), np.uint32)
    offsets = np.cumsum([0, *(len(part) for part in shingles)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets, permutations, _SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(shingles), permutations)


def band_keys(signature: NDArray[np.uint32], cut: Bands) -> Hashes:
    """One key a band [N, bands]: equal where all values of the band are; never shared by two bands."""
    values = signature[:, : cut.number * cut.rows].reshape(-1, cut.number, cut.rows).astype(np.uint64)
    keys = np.broadcast_to(mix(np.arange(1, cut.number + 1, dtype=np.uint64)), values.shape[:2]).copy()
    for row in range(cut.rows):
        keys = mix(keys ^ values[:, :, row])
    return keys


def sketches(signature: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """8 bits of each value [N, permutations]: what travels with a document to judge it by."""
    return (mix(signature.astype(np.uint64)) & np.uint64(0xFF)).astype(np.uint8)


def similarity(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of sketches, row by row.

    Bytes of different values agree by chance once in 256, which is taken off: (a - 1/256) / (1 - 1/256) for an
    agreement a (b-bit minwise hashing, Li and König 2010, with b = 8).
    """
    agreement = (left == right).mean(1)
    return np.clip((agreement - 1 / 256) / (1 - 1 / 256), 0, 1)
