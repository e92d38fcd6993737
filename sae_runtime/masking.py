"""Which tokens of a padded batch count: padding, overlap, first positions and norm outliers are left out.

Encoding and SAE training share it, so that an SAE is trained on the tokens that it will be asked about.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assay.sae_runtime.windows import Window


class CountedTokens(NamedTuple):
    """The T tokens of a padded batch (B, L) that count before any residual is seen."""

    flat_T: Tensor
    """place in the flattened batch"""
    document_T: Tensor
    position_T: Tensor
    """in the document"""
    usable_BL: Tensor
    """the places that hold a token that isn't masked, counted or not"""


def counted_tokens(batch: Sequence[Window], *, mask_first: bool) -> CountedTokens:
    """The tokens that count: not padding, not the overlap, and with `mask_first` not the first of a window."""
    length_B1 = torch.tensor([len(w.ids) for w in batch])[:, None]
    fresh_B1 = torch.tensor([w.fresh for w in batch])[:, None]
    place_1L = torch.arange(len(batch[0].ids))[None, :]
    usable_BL = (place_1L < length_B1) & (place_1L >= int(mask_first))
    counted_BL = usable_BL & (place_1L >= fresh_B1)
    row_T, place_T = counted_BL.nonzero(as_tuple=True)
    start_B = torch.tensor([w.start for w in batch])
    document_B = torch.tensor([w.document for w in batch])
    return CountedTokens(row_T * len(batch[0].ids) + place_T, document_B[row_T], start_B[row_T] + place_T, usable_BL)


def norm_outliers(hidden_BLD: Tensor, usable_BL: Tensor, norm_outlier: float | None) -> Tensor:
    """Flat mask (B * L,) of the tokens whose residual norm exceeds `norm_outlier` medians of their window."""
    if norm_outlier is None:
        return torch.zeros_like(usable_BL).flatten()
    norms_BL = hidden_BLD.float().norm(dim=-1)
    median_B1 = norms_BL.masked_fill(~usable_BL, torch.nan).nanmedian(dim=1, keepdim=True).values
    # A window whose only token is masked has no median; it counts nothing either way.
    return (norms_BL > norm_outlier * median_B1).flatten()
