"""The script that most people write: padded batches of 16 in corpus order, hooks, dense activations."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.rivals.base import Features, Task, Weights, Window, cut, residuals_of
from benchmarks.rivals.dense import RowPool, encode_dense

_BATCH = 16
_DENSE_BYTES = 2**30


class BatchesOf16(ABC):
    """Tokenise, pad, run with the attention mask, encode every position, mask, reduce.

    Dense activations of 16 long rows would not fit in memory at large d_sae, so as many rows are encoded at once as
    fit in 1 GiB.
    """

    def __init__(self, task: Task, weights: Weights) -> None:
        self._task = task
        self._tokenizer = weights.tokenizer
        self.tokens_run = 0

    @abstractmethod
    def _residuals(self, inputs: Mapping[str, Tensor]) -> Mapping[int, Tensor]:
        """Layer -> hidden_BTD."""

    @abstractmethod
    def _encode(self, layer: int, hidden_BTD: Tensor) -> Tensor:
        """acts_BTF, dense."""

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Features:
        task = self._task
        pools = {layer: RowPool(task.d_sae) for layer in task.layers}
        seen = np.zeros(len(texts), np.int64)
        self.tokens_run = 0
        windows = [window for batch in self._tokenised(texts) for window in batch]
        for start in range(0, len(windows), _BATCH):
            batch = windows[start : start + _BATCH]
            padded = self._tokenizer.pad({"input_ids": [window.ids for window in batch]}, return_tensors="pt")
            inputs = {name: tensor.to(task.device) for name, tensor in padded.items()}
            counted_BT = inputs["attention_mask"].bool()
            for row, window in enumerate(batch):
                counted_BT[row, : window.counted_from] = False
                seen[window.document] += max(0, len(window.ids) - window.counted_from)
            self.tokens_run += counted_BT.numel()
            hidden = self._residuals(inputs)
            rows = max(1, _DENSE_BYTES // (4 * task.d_sae * counted_BT.shape[1]))
            for layer in task.layers:
                for at in range(0, len(batch), rows):
                    acts_BTF = self._encode(layer, hidden[layer][at : at + rows])
                    acts_BTF *= counted_BT[at : at + rows, :, None]
                    pools[layer].add([window.document for window in batch[at : at + rows]], acts_BTF)
        return {layer: pool.finish(seen) for layer, pool in pools.items()}

    def _tokenised(self, texts: Sequence[str]) -> Iterator[list[Window]]:
        for start in range(0, len(texts), _BATCH):
            for document, ids in enumerate(self._tokenizer(list(texts[start : start + _BATCH]))["input_ids"], start):
                yield cut(document, ids, self._task)


class HuggingFaceHooks(BatchesOf16):
    """AutoModel without the head, a forward hook on each layer."""

    def __init__(self, task: Task, weights: Weights) -> None:
        super().__init__(task, weights)
        self._model = weights.model.model
        self._encoders = {layer: weights.encoder(layer) for layer in task.layers}

    def _residuals(self, inputs: Mapping[str, Tensor]) -> Mapping[int, Tensor]:
        with residuals_of(self._model.layers, self._task.layers) as hidden:
            self._model(**inputs, use_cache=False)
        return hidden

    def _encode(self, layer: int, hidden_BTD: Tensor) -> Tensor:
        return encode_dense(hidden_BTD, *self._encoders[layer], self._task.k)
