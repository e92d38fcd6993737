"""Residuals of a stream of windows, a group of windows at a time, from a place that can be named and returned to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.masking import counted_tokens, norm_outliers
from assay.sae_runtime.windows import Window, make_batches, pad

Place = tuple[int, ...]
"""Where a stream stands; what its numbers mean is the source's own matter"""
Source = Callable[[Place], Iterator[tuple[Place, Window]]]
"""The windows from a place on, each with the place behind it"""

_GROUP_BATCHES = 8


class ResidualStream:
    """Gives the residuals of every counted token once, in the same order from the same place.

    A token that is a norm outlier at one of the layers, or that float16 can't hold there, is left out at all of them,
    so that the layers' rows belong to the same tokens. Memory follows `batch_tokens` and not the documents.
    """

    def __init__(
        self, backbone: Backbone, source: Source, *, batch_tokens: int, norm_outlier: float, place: Place = ()
    ) -> None:
        self.place = place
        """behind the last window whose residuals were given"""
        self._backbone, self._batch_tokens, self._norm_outlier = backbone, batch_tokens, norm_outlier
        self._windows = source(place)

    def read(self) -> dict[int, Tensor] | None:
        """Layer -> hidden_TD (float16) of the next group of windows; None where the source has ended."""
        group: list[Window] = []
        tokens = 0
        for place, window in self._windows:
            self.place = place
            group.append(window)
            tokens += len(window.ids)
            if tokens >= _GROUP_BATCHES * self._batch_tokens:
                break
        if not group:
            return None
        parts = [self._residuals(batch) for batch in make_batches(group, self._batch_tokens)]
        return {layer: torch.cat([part[layer] for part in parts]) for layer in self._backbone.layers}

    @torch.inference_mode()
    def _residuals(self, batch: list[Window]) -> dict[int, Tensor]:
        counted = counted_tokens(batch, mask_first=True)
        device = self._backbone.device
        flat_T, usable_BL = counted.flat_T.to(device), counted.usable_BL.to(device)
        keep_T = torch.ones_like(flat_T, dtype=torch.bool)
        found: dict[int, Tensor] = {}

        def sink(layer: int, hidden_BLD: Tensor) -> None:
            found[layer] = hidden_BLD.flatten(0, 1).index_select(0, flat_T).half()
            outlier_T = norm_outliers(hidden_BLD, usable_BL, self._norm_outlier)[flat_T]
            keep_T.logical_and_(~outlier_T & found[layer].isfinite().all(1))

        self._backbone.run(pad(batch), sink)
        return {layer: hidden_TD[keep_T] for layer, hidden_TD in found.items()}
