"""The script on the SAEs' model cards: whole model, one document at a time, dense top-k."""

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.rivals.base import Features, Task, Weights, cut, residuals_of
from benchmarks.rivals.dense import RowPool, topk_dense


class ModelCard:
    """ForCausalLM with its head and a forward hook; `residual @ W_enc.T + b_enc`, `topk`, scatter into zeros.

    Several layers are hooked in one forward pass, which the card doesn't show. The cards leave out the ReLU; it is
    applied here to the k values, so that a negative one can't enter a mean.
    """

    def __init__(self, task: Task, weights: Weights) -> None:
        self._task = task
        self._tokenizer = weights.tokenizer
        self._model = weights.model
        self._encoders = {layer: weights.encoder(layer) for layer in task.layers}
        self.tokens_run = 0

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Features:
        task = self._task
        pools = {layer: RowPool(task.d_sae) for layer in task.layers}
        seen = np.zeros(len(texts), np.int64)
        self.tokens_run = 0
        with residuals_of(self._model.model.layers, task.layers) as hidden:
            for document, text in enumerate(texts):
                inputs = self._tokenizer(text, return_tensors="pt").to(task.device)
                for window in cut(document, inputs["input_ids"][0].tolist(), task):
                    self._model(input_ids=torch.tensor([window.ids], device=task.device))
                    self.tokens_run += len(window.ids)
                    seen[document] += max(0, len(window.ids) - window.counted_from)
                    for layer, (W_enc_FD, b_enc_F) in self._encoders.items():
                        pre_TF = hidden[layer][0] @ W_enc_FD.T + b_enc_F
                        acts_TF = topk_dense(pre_TF, task.k)[window.counted_from :]
                        if len(acts_TF):
                            pools[layer].add([document], acts_TF[None])
        return {layer: pool.finish(seen) for layer, pool in pools.items()}
