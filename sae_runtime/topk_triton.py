"""The exact top-k as one CUDA kernel that reads each row once from memory.

One program does one row. A group is RUN neighbouring columns out of every GROUPS * RUN. The first pass takes the group
maxima; the k-th largest of them bounds the k-th value from below (see `topk`). The groups that reach the bound, k of
them but for ties, are listed; the second pass reads only these and lists, in ascending order, the columns that reach
the bound; the winners are selected from that list. A row that overflows a list is done again by `topk.torch_topk`, and
to learn of such rows waits for the kernel. Triton needs a C compiler on the machine at its first launch.

Its results are tested in Triton's interpreter, and that it compiles for compute capability 9.0 is tested. Its speed on
a GPU is not yet measured.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from assay.sae_runtime.topk import torch_topk

MAX_K = 512
_MAX_RUN = 8
_MIN_GROUPS = 1024
_SPARE_GROUPS = 8
_VALUES_PER_WARP = 1024


def triton_topk(pre_TF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`exact_topk` of fp32 rows on a GPU; k > MAX_K takes torch's way."""
    T, F = pre_TF.shape
    if T == 0 or k > MAX_K:
        return torch_topk(pre_TF, k)
    pre_TF = pre_TF if pre_TF.stride(1) == 1 else pre_TF.contiguous()
    sizes = block_sizes(F, k)
    slots = sizes["OPEN"] + sizes["CAP"]
    values_TK = torch.empty(T, k, dtype=torch.float32, device=pre_TF.device)
    ids_TK = torch.empty(T, k, dtype=torch.int64, device=pre_TF.device)
    scratch = torch.empty(T, slots, dtype=torch.int32, device=pre_TF.device)
    overflow_T = torch.empty(T, dtype=torch.int32, device=pre_TF.device)
    with torch.cuda.device_of(pre_TF):
        topk_kernel[(T,)](pre_TF, values_TK, ids_TK, scratch, overflow_T, F, pre_TF.stride(0), k, **sizes)
    again = torch.nonzero(overflow_T).squeeze(1)
    if len(again):
        values_TK[again], ids_TK[again] = torch_topk(pre_TF[again], k)
    return values_TK, ids_TK


def block_sizes(width: int, k: int) -> dict[str, int]:
    """The kernel's compile-time sizes, all powers of two, and its warps, for rows of `width`.

    Four groups or more for each of k keep the second list little longer than k. A run of 8 fp32 values is a whole
    memory sector; narrow rows get shorter runs, so that min(width, GROUPS) >= k groups hold a value.
    """
    groups = max(_MIN_GROUPS, triton.next_power_of_2(4 * k))
    run = _MAX_RUN
    while run > 1 and groups * run > width:
        run //= 2
    opened = triton.next_power_of_2(k + _SPARE_GROUPS)
    warps = min(max(groups * run // _VALUES_PER_WARP, 4), 16)
    return {"GROUPS": groups, "RUN": run, "OPEN": opened, "CAP": 4 * opened, "num_warps": warps}


@triton.jit
def topk_kernel(  # type: ignore[no-untyped-def]
    pre_ptr,  # fp32 (T, width), rows `row_stride` apart
    values_ptr,  # fp32 (T, k)
    ids_ptr,  # int64 (T, k)
    scratch_ptr,  # int32 (T, OPEN + CAP)
    overflow_ptr,  # int32 (T,): 1 where a list was too short and the row's result is void
    width,
    row_stride,
    k,
    GROUPS: tl.constexpr,
    RUN: tl.constexpr,
    OPEN: tl.constexpr,
    CAP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # T * width can exceed 2^31
    pre_ptr += row * row_stride
    groups_ptr = scratch_ptr + row * (OPEN + CAP)
    columns_ptr = groups_ptr + OPEN

    best_GR = tl.zeros((GROUPS, RUN), tl.uint32)
    lane_GR = tl.arange(0, GROUPS)[:, None] * RUN + tl.arange(0, RUN)[None, :]
    for start in range(0, width, GROUPS * RUN):
        column_GR = start + lane_GR
        inside_GR = column_GR < width
        key_GR = _order_key(tl.load(pre_ptr + column_GR, mask=inside_GR, other=0.0))
        best_GR = tl.maximum(best_GR, tl.where(inside_GR, key_GR, 0))
    best_G = tl.max(best_GR, 1)
    bound = _kth_largest(best_G, k)

    open_G = best_G >= bound
    place_G = tl.cumsum(open_G.to(tl.int32), 0) - 1
    tl.store(groups_ptr + place_G, tl.arange(0, GROUPS), mask=open_G & (place_G < OPEN))
    opened = tl.sum(open_G.to(tl.int32), 0)
    tl.debug_barrier()  # other threads of the program wrote the list
    place_O = tl.arange(0, OPEN)
    listed_O = place_O < opened
    group_O = tl.load(groups_ptr + place_O, mask=listed_O, other=0)

    found = tl.zeros((), tl.int32)
    lane_OR = group_O[:, None] * RUN + tl.arange(0, RUN)[None, :]
    for start in range(0, width, GROUPS * RUN):
        column_OR = start + lane_OR
        inside_OR = listed_O[:, None] & (column_OR < width)
        key_OR = _order_key(tl.load(pre_ptr + column_OR, mask=inside_OR, other=0.0))
        hit_OR = (inside_OR & (key_OR >= bound)).to(tl.int32)
        hits_O = tl.sum(hit_OR, 1)
        before_O = found + tl.cumsum(hits_O, 0) - hits_O
        place_OR = before_O[:, None] + tl.cumsum(hit_OR, 1) - hit_OR
        tl.store(columns_ptr + place_OR, column_OR, mask=(hit_OR > 0) & (place_OR < CAP))
        found += tl.sum(hits_O, 0)
    tl.store(overflow_ptr + row, ((opened > OPEN) | (found > CAP)).to(tl.int32))
    tl.debug_barrier()

    place_C = tl.arange(0, CAP)
    listed_C = place_C < found
    column_C = tl.load(columns_ptr + place_C, mask=listed_C, other=0)
    value_C = tl.load(pre_ptr + column_C, mask=listed_C, other=0.0)
    key_C = tl.where(listed_C, _order_key(value_C), 0)
    kth = _kth_largest(key_C, k)
    above_C = listed_C & (key_C > kth)
    level_C = listed_C & (key_C == kth)
    room = k - tl.sum(above_C.to(tl.int32), 0)
    taken_C = above_C | (level_C & (tl.cumsum(level_C.to(tl.int32), 0) <= room))
    out_C = row * k + tl.cumsum(taken_C.to(tl.int32), 0) - 1
    tl.store(values_ptr + out_C, value_C, mask=taken_C)
    tl.store(ids_ptr + out_C, column_C.to(tl.int64), mask=taken_C)


@triton.jit
def _order_key(value):  # type: ignore[no-untyped-def]
    """uint32 keys in the order of the fp32 values: a negative number's bits are all flipped, else only the sign."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@triton.jit
def _kth_largest(key, k):  # type: ignore[no-untyped-def]
    """The k-th largest key: the largest bound that k keys reach, found bit by bit."""
    bound = tl.zeros((), tl.uint32)
    for i in range(32):
        trial = bound | (tl.full((), 1, tl.uint32) << (31 - i))
        bound = tl.where(tl.sum((key >= trial).to(tl.int32), 0) >= k, trial, bound)
    return bound
