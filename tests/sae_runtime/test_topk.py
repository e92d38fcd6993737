"""The two-stage top-k against torch.topk."""

import pytest
import torch

from assay.sae_runtime.topk import exact_topk


@pytest.mark.parametrize(("width", "k"), [(3072, 32), (32768, 50), (32768, 100), (131072, 100), (1000, 16), (97, 3)])
def test_exact_topk_selects_what_torch_topk_selects(width: int, k: int) -> None:
    pre = torch.randn(37, width, generator=torch.Generator().manual_seed(width + k))
    values, ids = exact_topk(pre, k)
    assert values.sort(descending=True).values.equal(torch.topk(pre, k).values)
    assert torch.gather(pre, 1, ids).equal(values)
    assert all(len(set(row)) == k for row in ids.tolist())


def test_winners_that_share_one_group_are_all_found() -> None:
    pre = torch.zeros(1, 4096)
    groups = 16 * 8
    pre[0, 5::groups] = torch.arange(1.0, 4096 / groups + 1)
    values, _ = exact_topk(pre, 8)
    assert sorted(values[0].tolist()) == [25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 31.0, 32.0]


def test_rows_of_equal_values_give_k_distinct_ids() -> None:
    _, ids = exact_topk(torch.ones(2, 4096), 50)
    assert all(len(set(row)) == 50 for row in ids.tolist())
