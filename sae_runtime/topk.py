"""Exact top-k of wide rows with one full read."""

import torch
from torch import Tensor

_GROUPS_PER_K = 16


def exact_topk(pre_TF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values_TK, ids_TK) of each row's k largest, unsorted; equal to torch.topk as a set up to ties.

    The row is split into G groups. The k-th largest group maximum bounds the k-th largest value from below, so all
    winners lie in the k groups with the largest maxima; only these are searched.
    """
    T, F = pre_TF.shape
    groups = _group_count(F, k)
    if groups == 0:
        return torch.topk(pre_TF, k, dim=-1, sorted=False)
    size = F // groups
    pre_TSG = pre_TF.view(T, size, groups)
    best_TK = torch.topk(pre_TSG.amax(1), k, dim=-1, sorted=False).indices
    candidates = torch.gather(pre_TSG, 2, best_TK[:, None, :].expand(T, size, k)).reshape(T, size * k)
    values_TK, where_TK = torch.topk(candidates, k, dim=-1, sorted=False)
    row_TK = torch.div(where_TK, k, rounding_mode="floor")
    return values_TK, row_TK * groups + torch.gather(best_TK, 1, where_TK % k)


def _group_count(width: int, k: int) -> int:
    """A divisor of `width` near 16 k that leaves groups of at least 4; 0 where plain torch.topk is as good."""
    target = min(_GROUPS_PER_K * k, width // 4)
    for groups in range(target, 2 * k, -1):
        if width % groups == 0:
            return groups
    return 0
