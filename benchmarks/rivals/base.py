"""The one question that every rival answers, and the one form of its answer."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Task:
    """Which features of a text are asked for, and where the weights lie."""

    backbone: Path
    saes: Path
    """folder with layer{n}.sae.pt"""
    layers: tuple[int, ...]
    d_sae: int
    k: int
    window: int
    """tokens; a longer document is cut into windows"""
    overlap: int
    """tokens that a later window repeats as context, uncounted"""
    batch_tokens: int
    """padded tokens in a forward pass, for those who batch by tokens"""
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Pooled:
    """Features of N documents at one layer as CSR: document i owns entries offsets[i]:offsets[i+1], ids ascending."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    max: NDArray[np.float32]
    mean: NDArray[np.float32]
    count: NDArray[np.int32]


Features = dict[int, Pooled]


class Rival(Protocol):
    """Loaded, and ready to be timed."""

    def features(self, texts: Sequence[str]) -> Features:
        """Layer -> features of each text; tokenisation is part of the work."""
        ...

    @property
    def tokens_run(self) -> int | None:
        """Tokens that the last call sent through the backbone, padding included; None if it doesn't tell."""
        ...


class Window(NamedTuple):
    """Tokens of one forward pass; those before `fresh` only give context, and the first is an attention sink."""

    document: int
    fresh: int
    ids: list[int]

    @property
    def counted_from(self) -> int:
        return max(1, self.fresh)


def cut(document: int, ids: list[int], task: Task) -> list[Window]:
    """The windows of a document; each token but the first is counted in exactly one."""
    windows = [Window(document, 0, ids[: task.window])]
    while len(ids) > task.window:
        ids = ids[task.window - task.overlap :]
        windows.append(Window(document, task.overlap, ids[: task.window]))
    return windows


class Weights:
    """Weights that several rivals use, loaded once: the whole model, and each SAE's encoder."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sae_lens: dict[int, Any] = {}
        """layer -> SAELens' object, filled by those who use it"""
        self._encoders: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's fast tokenizer."""
        return transformers.AutoTokenizer.from_pretrained(self.task.backbone)

    @cached_property
    def model(self) -> Any:
        """The whole ForCausalLM."""
        return load(transformers.AutoModelForCausalLM, self.task)

    def encoder(self, layer: int) -> tuple[Tensor, Tensor]:
        """(W_enc_FD, b_enc_F) on the device, in the task's dtype."""
        if layer not in self._encoders:
            state = torch.load(self.task.saes / f"layer{layer}.sae.pt", weights_only=True, mmap=True)
            # clone() takes mapped pages into memory: no rival pays for reading the file later.
            W_enc, b_enc = (
                state[name].to(self.task.device, getattr(torch, self.task.dtype)).clone() for name in ("W_enc", "b_enc")
            )
            self._encoders[layer] = W_enc, b_enc
        return self._encoders[layer]


def load(model_class: Any, task: Task, **changes: Any) -> Any:
    """A transformers model of the checkpoint, for inference."""
    model = model_class.from_pretrained(task.backbone, dtype=getattr(torch, task.dtype), **changes)
    return model.eval().requires_grad_(False).to(task.device)


@contextlib.contextmanager
def residuals_of(decoder_layers: Sequence[nn.Module], layers: Sequence[int]) -> Iterator[Mapping[int, Tensor]]:
    """A mapping that holds layer -> hidden_BTD of the latest forward pass, by forward hooks."""
    hidden: dict[int, Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        hidden[layer] = output[0] if isinstance(output, tuple) else output

    handles = [
        decoder_layers[layer].register_forward_hook(lambda _module, _inputs, output, layer=layer: keep(layer, output))
        for layer in layers
    ]
    try:
        yield hidden
    finally:
        for handle in handles:
            handle.remove()
