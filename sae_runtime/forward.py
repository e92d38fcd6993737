"""One forward pass: a batch of windows in, the active features of its counted tokens out, layer by layer."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.encoder import Activations, Encoder
from assay.sae_runtime.masking import counted_tokens, norm_outliers
from assay.sae_runtime.residual_mean import window_sums
from assay.sae_runtime.windows import Window, pad
from assay.schemas.errors import AssayError
from assay.schemas.scope import Scope

log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """What one forward pass found on its T counted tokens."""

    document_T: Tensor
    position_T: Tensor
    """in the document"""
    layers: dict[int, Activations]
    outlier: dict[int, Tensor]
    """layer -> bool_T: tokens left out at that layer"""
    window_document_B: Tensor
    """the document of each window, on the CPU"""
    residual_sums: dict[int, Tensor]
    """layer -> float64 (B, D): each window's residuals summed over the tokens counted at that layer; empty where the
    scope doesn't ask for residuals"""


class Forward:
    """Backbone and encoders in one pass; a layer is encoded as it is reached, so that no token's residual is stored."""

    def __init__(self, scope: Scope, backbone: Backbone, encoders: Mapping[int, Encoder]) -> None:
        self._scope, self._backbone, self._encoders = scope, backbone, encoders
        self._device = backbone.device

    def run(self, batch: list[Window]) -> Iterator[Encoded]:
        """One batch's activations; where memory runs out, those of its halves, with a warning."""
        try:
            encoded = self._run_at_once(batch)
        except (torch.OutOfMemoryError, RuntimeError) as e:
            if not _out_of_memory(e):
                raise
            tokens = len(batch) * len(batch[0].ids)
            if len(batch) == 1:
                raise AssayError(
                    f"out of memory on {self._device} for one window of {tokens} tokens",
                    where=f"scope {self._scope.name!r}",
                    hint="lower the scope's window, hook fewer layers, or take a smaller backbone",
                ) from None
            log.warning(
                "out of memory on %s for a batch of %d tokens: halving it; lower batch_tokens", self._device, tokens
            )
        else:
            yield encoded
            return
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        yield from self.run(batch[:middle])
        yield from self.run(batch[middle:])

    @torch.inference_mode()
    def _run_at_once(self, batch: Sequence[Window]) -> Encoded:
        """The mask leaves out padding, the overlap, first positions, and at each layer the norm outliers."""
        counted = counted_tokens(batch, mask_first=self._scope.mask_first)
        flat_T, document_T, position_T, usable_BL, ids_BL = map(self._to_device, (*counted, pad(batch)))
        layers: dict[int, Activations] = {}
        outlier: dict[int, Tensor] = {}
        sums: dict[int, Tensor] = {}

        def sink(layer: int, hidden_BLD: Tensor) -> None:
            hidden_TD = hidden_BLD.flatten(0, 1).index_select(0, flat_T)
            outlier[layer] = norm_outliers(hidden_BLD, usable_BL, self._scope.norm_outlier)[flat_T]
            layers[layer] = _without(outlier[layer], self._encoders[layer].encode(hidden_TD))
            if self._scope.residuals:
                counted_BL = torch.zeros_like(usable_BL).flatten().index_fill_(0, flat_T[~outlier[layer]], 1)
                sums[layer] = window_sums(hidden_BLD, counted_BL.view_as(usable_BL))

        self._backbone.run(ids_BL, sink)
        return Encoded(document_T, position_T, layers, outlier, torch.tensor([w.document for w in batch]), sums)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copied from pinned memory, so that a GPU's queue need not wait for it."""
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor


def _without(outlier_T: Tensor, found: Activations) -> Activations:
    kept_A = ~outlier_T[found.token_A]
    return Activations(*(column[kept_A] for column in found))


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
