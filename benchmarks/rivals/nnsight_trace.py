"""nnsight: a trace around each batch of 16, stopped after the deepest layer."""

from collections.abc import Mapping
from typing import Any

import transformers
from nnsight import NNsight
from torch import Tensor

from benchmarks.rivals.base import Task, Weights, load
from benchmarks.rivals.batches_of_16 import BatchesOf16
from benchmarks.rivals.dense import encode_dense


class NnsightTrace(BatchesOf16):
    """An nnsight trace that saves each layer's output and stops after the deepest."""

    def __init__(self, task: Task, weights: Weights) -> None:
        super().__init__(task, weights)
        # A model of its own: nnsight wraps every module's forward, which would slow the others' runs.
        self._model: Any = NNsight(load(transformers.AutoModel, task))
        self._encoders = {layer: weights.encoder(layer) for layer in task.layers}

    def _residuals(self, inputs: Mapping[str, Tensor]) -> Mapping[int, Tensor]:
        layers = self._task.layers
        hidden = {}
        with self._model.trace(**inputs, use_cache=False) as tracer:
            for layer in layers:
                hidden[layer] = self._model.layers[layer].output.save()
            tracer.stop()
        return {layer: output[0] if isinstance(output, tuple) else output for layer, output in hidden.items()}

    def _encode(self, layer: int, hidden_BTD: Tensor) -> Tensor:
        return encode_dense(hidden_BTD, *self._encoders[layer], self._task.k)
