"""The mean residual of a document's counted tokens: what a dense probe reads, beside the sparse features.

    residual_mean = sum over counted tokens of h / counted tokens        h: the residual after the hooked layer

The tokens are those that the features of the layer are pooled over.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.sae_runtime.pooling import round_significand


def window_sums(hidden_BLD: Tensor, counted_BL: Tensor) -> Tensor:
    """float64 (B, D): each window's sum over its counted tokens; what isn't counted may be NaN or infinite."""
    return hidden_BLD.masked_fill(~counted_BL[..., None], 0).sum(1, dtype=torch.float64)


class ResidualMeans:
    """Adds up the windows of N documents in float64, in the order in which they come."""

    def __init__(self, documents: int, d_model: int) -> None:
        self._sum_ND = np.zeros((documents, d_model))

    def add(self, document_B: Tensor, sum_BD: Tensor) -> None:
        """Takes window sums, with the document of each."""
        np.add.at(self._sum_ND, document_B.numpy(), sum_BD.cpu().numpy())

    def finish(self, counted_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (N, D), to 11 significant bits as pooled values are; 0 where no token counted."""
        return round_significand(self._sum_ND / np.maximum(counted_N, 1)[:, None])
