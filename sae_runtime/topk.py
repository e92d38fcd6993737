"""Exact top-k of wide rows with one full read.

Split a row into G groups. The k-th largest group maximum bounds the row's k-th largest value from below, for each of
the best k groups holds one element that reaches it. So the k groups with the largest maxima hold k winners, and only
they are searched. The same argument finds those groups among all groups, hence the recursion.
"""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from assay.schemas.errors import printable

log = logging.getLogger(__name__)

_WIDE = 16384
_TIED_ROWS = 64  # bounds the memory where whole rows are tied


def exact_topk(pre_TF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values_TK, ids_TK int64): each row's k largest; a positive k-th value shared by many goes to the lowest ids.

    Which of several equal values <= 0 are taken is not specified, but the k ids are always distinct. The order within
    a row is not specified, but depends on the row alone. -inf is a value like any other. A row with NaN gives k
    distinct ids in range and nothing more. Raises ValueError unless 0 < k <= F.
    """
    if not 0 < k <= pre_TF.shape[1]:
        raise ValueError(f"k = {k} with rows of {pre_TF.shape[1]}")
    on_gpu = _triton_route() if pre_TF.is_cuda and pre_TF.dtype == torch.float32 else None
    return (on_gpu or torch_topk)(pre_TF, k)


def torch_topk(pre_TF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`exact_topk` in torch alone, on any device.

    The k + 1 largest are selected: a row's choice is open only where the last two are equal. Such rows are rare and
    are done again from the whole row, for a tied element can lie in a group that was not searched.
    """
    if k == pre_TF.shape[1]:
        return torch.topk(pre_TF, k, dim=-1)
    values_TK1, ids_TK1 = _largest(pre_TF, k + 1, sort=True)
    values_TK, ids_TK = values_TK1[:, :k].contiguous(), ids_TK1[:, :k].contiguous()
    tied = torch.nonzero((values_TK1[:, k - 1] == values_TK1[:, k]) & (values_TK1[:, k] > 0)).squeeze(1)
    for start in range(0, len(tied), _TIED_ROWS):
        some_R = tied[start : start + _TIED_ROWS]
        tied_RF = pre_TF[some_R]
        ids_RK = _lowest_ids(tied_RF, values_TK[some_R, -1:], k)
        ids_TK[some_R] = ids_RK
        values_TK[some_R] = torch.gather(tied_RF, 1, ids_RK)
    return values_TK, ids_TK


def _largest(pre_TF: Tensor, k: int, *, sort: bool) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their ids, with ties as they come.

    Column c is in group c % G, so that the maxima are taken over whole vectors. The columns that do not fill up the
    groups are searched besides.
    """
    F = pre_TF.shape[1]
    size = 8 if F >= _WIDE else 4
    if size * 3 * k > F:
        return torch.topk(pre_TF, k, dim=-1, sorted=sort)
    groups = F // size
    head = groups * size
    maxima_TG = pre_TF[:, :head].unflatten(1, (size, groups)).amax(1)
    _, best_TK = _largest(maxima_TG, k, sort=False)
    first = torch.arange(0, head, groups, device=pre_TF.device)
    columns_TC = (first[:, None] + best_TK[:, None, :]).flatten(1)
    if head < F:
        rest = torch.arange(head, F, device=pre_TF.device).expand(len(pre_TF), -1)
        columns_TC = torch.cat([columns_TC, rest], 1)
    values_TK, where_TK = torch.topk(torch.gather(pre_TF, 1, columns_TC), k, dim=-1, sorted=sort)
    return values_TK, torch.gather(columns_TC, 1, where_TK)


def _lowest_ids(pre_RF: Tensor, kth_R1: Tensor, k: int) -> Tensor:
    """Each row's ids of all values above its k-th largest, then the lowest ids of those that equal it."""
    row_N, id_N = torch.nonzero(~(pre_RF < kth_R1), as_tuple=True)  # NaN ranks above all, as in torch.topk
    level_N = pre_RF[row_N, id_N] == kth_R1[row_N, 0]
    order_N = torch.argsort(2 * row_N + level_N, stable=True)
    reach_R = torch.bincount(row_N, minlength=len(pre_RF))
    first_R = reach_R.cumsum(0) - reach_R
    return id_N[order_N][first_R[:, None] + torch.arange(k, device=pre_RF.device)]


@functools.cache
def _triton_route() -> Callable[[Tensor, int], tuple[Tensor, Tensor]] | None:
    """The GPU kernel, tried once: Triton can be absent, or lack the C compiler that its first launch needs."""
    try:
        from assay.sae_runtime.topk_triton import triton_topk

        triton_topk(torch.arange(1024.0, device="cuda").expand(2, -1).contiguous(), 8)
    except Exception as e:  # noqa: BLE001 - whatever keeps the kernel from running, torch's way gives the same answer
        log.warning("the Triton top-k can't run (%s: %s); a slower one is used", type(e).__name__, printable(e))
        return None
    return triton_topk
