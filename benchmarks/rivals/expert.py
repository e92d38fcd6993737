"""The script that an expert would write in an afternoon: sorted batches, early exit, sparse reduction."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.rivals.base import Features, Pooled, Task, Weights, Window, cut, load, residuals_of

_BLOCK_BYTES = 64 * 2**20


class SparseEncoder:
    """GEMM into one reused buffer, then torch.topk."""

    def __init__(self, W_enc_FD: Tensor, b_enc_F: Tensor, k: int) -> None:
        self._W_enc_FD, self._b_enc_F, self._k = W_enc_FD, b_enc_F, k
        d_sae = W_enc_FD.shape[0]
        self._pre_TF = W_enc_FD.new_empty(max(64, _BLOCK_BYTES // (W_enc_FD.element_size() * d_sae)), d_sae)

    def encode(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(acts_TK, ids_TK)"""
        parts = []
        for block_TD in hidden_TD.split(len(self._pre_TF)):
            pre_TF = self._pre_TF[: len(block_TD)]
            torch.addmm(self._b_enc_F, block_TD, self._W_enc_FD.T, out=pre_TF)
            parts.append(pre_TF.topk(self._k, dim=-1, sorted=False))
        return torch.cat([part.values for part in parts]).relu_(), torch.cat([part.indices for part in parts])


class SparsePool:
    """Max, sum and count by (document, feature): sort the pairs, reduce the runs of equal ones."""

    def __init__(self, d_sae: int) -> None:
        self._d_sae = d_sae
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, documents_T: Tensor, acts_TK: Tensor, ids_TK: Tensor) -> None:
        """Takes counted tokens; documents_T names each one's document."""
        active = acts_TK > 0
        keys = (documents_T[:, None] * self._d_sae + ids_TK)[active]
        acts = acts_TK[active].float()
        self._parts.append(_reduce(keys, acts, acts, torch.ones_like(acts)))

    def finish(self, tokens_seen: np.ndarray) -> Pooled:
        """The features of documents 0..N-1, of which tokens_seen tokens each were counted."""
        parts = _reduce(*(torch.cat(column) for column in zip(*self._parts, strict=True)))
        keys, maxima, sums, counts = (column.cpu().numpy() for column in parts)
        documents, ids = np.divmod(keys, self._d_sae)
        return Pooled(
            offsets=np.searchsorted(documents, np.arange(len(tokens_seen) + 1)),
            ids=ids.astype(np.int32),
            max=maxima,
            mean=sums / np.maximum(tokens_seen[documents], 1).astype(np.float32),
            count=counts.astype(np.int32),
        )


class Expert:
    """Length-sorted batches of a token budget, no mask, a backbone cut after the deepest layer, real tokens only."""

    def __init__(self, task: Task, weights: Weights) -> None:
        self._task = task
        self._tokenizer = weights.tokenizer
        self._model = load(transformers.AutoModel, task, num_hidden_layers=max(task.layers) + 1)
        self._model.norm = nn.Identity()
        self._encoders = {layer: SparseEncoder(*weights.encoder(layer), task.k) for layer in task.layers}
        self.tokens_run = 0

    @torch.inference_mode()
    def features(self, texts: Sequence[str]) -> Features:
        task = self._task
        tokenised = self._tokenizer(list(texts), return_attention_mask=False)["input_ids"]
        windows = [window for document, ids in enumerate(tokenised) for window in cut(document, ids, task)]
        pools = {layer: SparsePool(task.d_sae) for layer in task.layers}
        self.tokens_run = 0
        for batch in sorted_batches(windows, task.batch_tokens):
            ids_BT = pad_sequence([torch.tensor(window.ids) for window in batch], batch_first=True).to(task.device)
            self.tokens_run += ids_BT.numel()
            with residuals_of(self._model.layers, task.layers) as hidden:
                self._model(input_ids=ids_BT, use_cache=False)
            counted_BT, documents_T = counted_tokens(batch, task.device)
            for layer, encoder in self._encoders.items():
                pools[layer].add(documents_T, *encoder.encode(hidden[layer][counted_BT]))
        return {layer: pool.finish(tokens_seen(windows, len(texts))) for layer, pool in pools.items()}


class SmallBatchExpert(Expert):
    """The same with 1,024 tokens a batch, what this runtime takes on a CPU: how much of its lead is that choice."""

    def __init__(self, task: Task, weights: Weights) -> None:
        super().__init__(dataclasses.replace(task, batch_tokens=1024), weights)


def sorted_batches(windows: Sequence[Window], batch_tokens: int) -> list[list[Window]]:
    """Longest first, each batch of at most `batch_tokens` padded tokens."""
    batches: list[list[Window]] = []
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].ids) <= batch_tokens:
            batches[-1].append(window)
        else:
            batches.append([window])
    return batches


def counted_tokens(batch: Sequence[Window], device: str) -> tuple[Tensor, Tensor]:
    """(counted_BT, documents_T): which positions of a right-padded batch count, and the document of each that does."""
    position_1T = torch.arange(max(len(window.ids) for window in batch), device=device)[None]
    first_B1, end_B1, document_B1 = (
        torch.tensor(column, device=device)[:, None]
        for column in zip(*((w.counted_from, len(w.ids), w.document) for w in batch), strict=True)
    )
    counted_BT = (position_1T >= first_B1) & (position_1T < end_B1)
    return counted_BT, document_B1.expand_as(counted_BT)[counted_BT]


def tokens_seen(windows: Sequence[Window], documents: int) -> np.ndarray:
    """Counted tokens of each document."""
    seen = np.zeros(documents, np.int64)
    for window in windows:
        seen[window.document] += max(0, len(window.ids) - window.counted_from)
    return seen


def _reduce(keys: Tensor, maxima: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    keys, order = keys.sort()
    unique, lengths = keys.unique_consecutive(return_counts=True)
    return (
        unique,
        torch.segment_reduce(maxima[order], "max", lengths=lengths),
        torch.segment_reduce(sums[order], "sum", lengths=lengths),
        torch.segment_reduce(counts[order], "sum", lengths=lengths),
    )
