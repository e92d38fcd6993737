"""Pooling as scripts do it: dense (tokens, d_sae) activations, reduced over tokens, then made sparse."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.rivals.base import Pooled


def topk_dense(pre: Tensor, k: int) -> Tensor:
    """Pre-activations with all but the k largest of each token set to zero."""
    values, ids = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, ids, values.relu())


def encode_dense(hidden: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int) -> Tensor:
    """Dense activations (..., d_sae) of residuals (..., d_model)."""
    return topk_dense(functional.linear(hidden, W_enc_FD, b_enc_F), k)


class RowPool:
    """Collects reduced rows (a window each) of one layer, and merges those of one document at the end."""

    def __init__(self, d_sae: int) -> None:
        self._d_sae = d_sae
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(self, documents: list[int], acts_BTF: Tensor) -> None:
        """Takes the activations of B windows, zero at every token that isn't counted."""
        max_BF = acts_BTF.amax(1)
        sum_BF = acts_BTF.sum(1)
        count_BF = (acts_BTF > 0).sum(1)
        rows, ids = count_BF.nonzero(as_tuple=True)
        document_B = torch.tensor(documents, device=rows.device)
        self._keys.append((document_B[rows] * self._d_sae + ids).cpu())
        columns = (max_BF[rows, ids].double(), sum_BF[rows, ids].double(), count_BF[rows, ids].double())
        self._values.append(torch.stack(columns).cpu())

    def finish(self, tokens_seen: np.ndarray) -> Pooled:
        """The features of documents 0..N-1, of which tokens_seen tokens each were counted."""
        keys = torch.cat(self._keys).numpy()
        maxima, sums, counts = torch.cat(self._values, dim=1).numpy()
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        documents, ids = np.divmod(keys[starts], self._d_sae)
        return Pooled(
            offsets=np.searchsorted(documents, np.arange(len(tokens_seen) + 1)),
            ids=ids.astype(np.int32),
            max=np.maximum.reduceat(maxima[order], starts).astype(np.float32),
            mean=(np.add.reduceat(sums[order], starts) / np.maximum(tokens_seen[documents], 1)).astype(np.float32),
            count=np.add.reduceat(counts[order], starts).astype(np.int32),
        )
