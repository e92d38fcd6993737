"""Trains an SAE for each of several layers from one pass over a residual stream, resumable at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.training.residual_stream import ResidualStream, Source
from assay.sae_runtime.training.sae_trainer import SaeConfig, SaeTrainer, SaeWeights
from assay.sae_runtime.training.shuffle_buffer import ShuffleBuffer
from assay.schemas.errors import AssayError

_SAMPLE = 100_000


@dataclass(frozen=True)
class LayersConfig:
    """What decides the SAEs besides backbone and texts."""

    sae: SaeConfig
    tokens: int
    """rows that each SAE is trained on"""
    buffer: int
    """rows that are shuffled together"""
    batch_tokens: int
    """padded tokens in one forward pass of the backbone"""
    norm_outlier: float = 10.0
    """tokens whose residual norm exceeds this many medians of their window are left out"""


class StepResult(NamedTuple):
    """What one step found, layer -> value."""

    fvu: dict[int, Tensor]
    tokens: int
    """rows trained on so far"""


class LayersRun:
    """Gives the same SAEs from the same backbone, windows and configuration, however often it was interrupted."""

    def __init__(
        self, backbone: Backbone, source: Source, config: LayersConfig, state: dict[str, Any] | None = None
    ) -> None:
        """Starts anew, or where `state` was taken."""
        self.config, self._backbone = config, backbone
        widths = dict.fromkeys(backbone.layers, backbone.d_model)
        self._buffer = ShuffleBuffer(config.buffer, widths, config.sae.seed, backbone.device)
        self.steps = config.tokens // config.sae.batch_tokens
        self.step_number = int(state["step"]) if state else 0
        self._stream = ResidualStream(
            backbone,
            source,
            batch_tokens=config.batch_tokens,
            norm_outlier=config.norm_outlier,
            place=tuple(state["place"]) if state else (),
        )
        if state:
            self._buffer.load_state_dict(state["buffer"])
            self.trainers = {
                layer: SaeTrainer.resumed(saved, backbone.d_model, config.sae, backbone.device)
                for layer, saved in state["trainers"].items()
            }
        else:
            self._fill()
            sample = self._buffer.sample(_SAMPLE)
            self.trainers = {layer: SaeTrainer(rows, config.sae) for layer, rows in sample.items()}

    def step(self) -> StepResult:
        """One step of every layer's SAE on the same tokens."""
        size = self.config.sae.batch_tokens
        if len(self._buffer) < max(size, min(self.config.buffer // 2, self._rows_left())):
            self._fill()
        rows = self._buffer.take(size)
        progress = self.step_number / self.steps
        fvu = {layer: trainer.step(rows[layer], progress) for layer, trainer in self.trainers.items()}
        self.step_number += 1
        return StepResult(fvu, self.step_number * size)

    def _rows_left(self) -> int:
        return (self.steps - self.step_number) * self.config.sae.batch_tokens

    def _fill(self) -> None:
        self._buffer.fill(self._stream.read, self._rows_left())
        if len(self._buffer) < self.config.sae.batch_tokens:
            raise AssayError("the stream of residuals ended early", hint="the corpus has no text to train on")

    @property
    def place(self) -> tuple[int, ...]:
        """How far the windows are read."""
        return self._stream.place

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step_number >= self.steps

    def weights(self) -> dict[int, SaeWeights]:
        """Layer -> the SAE as it is."""
        return {layer: trainer.weights() for layer, trainer in self.trainers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, loadable with `weights_only=True`."""
        return {
            "step": self.step_number,
            "place": list(self.place),
            "buffer": self._buffer.state_dict(),
            "trainers": {layer: trainer.state_dict() for layer, trainer in self.trainers.items()},
        }
