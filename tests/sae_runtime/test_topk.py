"""The exact top-k against an oracle that sorts; every route of it keeps the same contract."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from assay.sae_runtime.topk import exact_topk, torch_topk

Select = Callable[[Tensor, int], tuple[Tensor, Tensor]]

LEVELS = np.array([-np.inf, -2.0, -0.0, 0.0, 1e-40, 1.0, 2.0, 3.0], np.float32)


@st.composite
def tied_matrices(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 300)))
    pre = draw(arrays.arrays(np.float32, shape, elements=st.sampled_from(LEVELS.tolist())))
    return pre, draw(st.integers(1, min(shape[1], 40)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_exact(pre: Tensor, k: int, got: tuple[Tensor, Tensor]) -> None:
    """The positive winners are the first k by (-value, index), the others are as large as they should be."""
    values, ids = got
    assert values.shape == ids.shape == (len(pre), k)
    assert values.dtype == pre.dtype
    assert ids.dtype == torch.int64
    assert torch.gather(pre, 1, ids).equal(values)
    for row, row_values, row_ids in zip(pre.tolist(), values.tolist(), ids.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:k]
        assert len(set(row_ids)) == k
        assert {i for i in row_ids if row[i] > 0} == {i for i in best if row[i] > 0}
        assert sorted(row_values) == sorted(row[i] for i in best)


class ExactTopKContract:
    """What holds for every route; a subclass names the route as the fixture `select`."""

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(tied_matrices())
    def test_any_small_matrix_full_of_ties_is_selected_as_by_sorting(
        self, select: Select, case: tuple[np.ndarray, int]
    ) -> None:
        pre, k = torch.from_numpy(case[0]), case[1]
        assert_exact(pre, k, select(pre, k))

    @pytest.mark.parametrize(
        ("width", "k"),
        [(3072, 32), (8192, 50), (32768, 100), (65536, 1), (131072, 50), (1000, 256), (2000, 600)],
    )
    def test_wide_rows_are_selected_as_by_sorting(self, select: Select, width: int, k: int) -> None:
        pre = noise(3, width, seed=width)
        assert_exact(pre, k, select(pre, k))

    @pytest.mark.parametrize(("width", "k"), [(97, 3), (1023, 16), (8191, 50), (16224, 50), (20001, 32), (32769, 100)])
    def test_a_width_that_no_group_size_divides_loses_no_column(self, select: Select, width: int, k: int) -> None:
        pre = noise(3, width, seed=width)
        pre[1, -k // 2 :] += 100
        pre[2] = -pre[2].abs()
        assert_exact(pre, k, select(pre, k))

    def test_rows_of_a_low_rank_encoder_are_selected_as_by_sorting(self, select: Select) -> None:
        pre = noise(4, 48, seed=1) @ noise(48, 16384, seed=2) - 5
        assert_exact(pre, 50, select(pre, 50))

    def test_of_duplicate_encoder_rows_at_the_cut_the_lower_index_wins(self, select: Select) -> None:
        pre = noise(4, 4096, seed=3).repeat_interleave(2, dim=1)
        assert_exact(pre, 51, select(pre, 51))
        far = noise(4, 4096, seed=4).repeat(1, 2)
        assert_exact(far, 51, select(far, 51))

    @pytest.mark.parametrize("ties", [51, 60, 90, 150, 400, 3000])
    def test_ties_at_the_cut_go_to_the_lowest_indices_wherever_they_lie(self, select: Select, ties: int) -> None:
        pre = noise(3, 8192, seed=ties).clamp(max=2.0)
        for row in range(3):
            where = torch.randperm(8192, generator=torch.Generator().manual_seed(ties + row))
            pre[row, where[:ties]] = 3.0
            pre[row, where[ties : ties + row]] = 4.0
        assert_exact(pre, 50, select(pre, 50))

    def test_a_batch_of_nothing_but_tied_rows_is_selected_as_by_sorting(self, select: Select) -> None:
        pre = noise(150, 640, seed=13).round()
        assert_exact(pre, 50, select(pre, 50))

    def test_winners_that_share_one_group_are_all_found(self, select: Select) -> None:
        pre = torch.zeros(3, 32768)
        pre[0, 5::1024] = torch.arange(1.0, 33.0)
        pre[1, 5::512] = torch.arange(1.0, 65.0)
        pre[2, 4096:4160] = torch.arange(1.0, 65.0)
        assert_exact(pre, 32, select(pre, 32))

    @pytest.mark.parametrize("value", [1.0, 1e-40, 0.0, -0.0, -1.0, -torch.inf])
    def test_rows_of_one_value_give_distinct_ids(self, select: Select, value: float) -> None:
        pre = torch.full((2, 4096), value)
        assert_exact(pre, 50, select(pre, 50))

    def test_neighbouring_floats_are_told_apart(self, select: Select) -> None:
        steps = torch.randperm(4096, generator=torch.Generator().manual_seed(5)).to(torch.int32)
        pre = torch.stack([steps.view(torch.float32), (steps + 0x3F800000).view(torch.float32)])
        assert_exact(pre, 50, select(pre, 50))

    def test_columns_padded_with_minus_infinity_are_taken_last(self, select: Select) -> None:
        pre = noise(3, 5000, seed=6)
        pre[:, 4000:] = -torch.inf
        pre[1, 20:] = -torch.inf
        pre[2] = -torch.inf
        assert_exact(pre, 50, select(pre, 50))

    def test_a_row_with_fewer_than_k_positive_values_gives_all_of_them(self, select: Select) -> None:
        pre = -noise(3, 8192, seed=7).abs()
        pre[0, ::1000] = 0.5
        pre[1].clamp_(min=-0.0)
        pre[1, 8000] = 2.0
        assert_exact(pre, 50, select(pre, 50))

    @pytest.mark.parametrize("width", [1, 5, 300, 2048])
    def test_k_may_be_the_whole_width(self, select: Select, width: int) -> None:
        pre = noise(2, width, seed=8).round()
        assert_exact(pre, width, select(pre, width))

    def test_no_rows_give_no_rows(self, select: Select) -> None:
        values, ids = select(torch.empty(0, 8192), 50)
        assert values.shape == ids.shape == (0, 50)
        assert (values.dtype, ids.dtype) == (torch.float32, torch.int64)

    def test_rows_need_not_be_contiguous(self, select: Select) -> None:
        pre = noise(5000, 6, seed=9)
        assert_exact(pre.T[::2], 20, select(pre.T[::2], 20))
        assert_exact(pre.T.contiguous()[:, 7:4500], 20, select(pre.T.contiguous()[:, 7:4500], 20))

    def test_a_row_gives_the_same_bits_again_and_in_any_batch(self, select: Select) -> None:
        pre = noise(6, 8192, seed=10)
        pre[3:] = pre[3:].mul(2).round()
        values, ids = select(pre, 50)
        again = select(pre.clone(), 50)
        alone = [select(row[None], 50) for row in pre]
        assert values.equal(again[0])
        assert ids.equal(again[1])
        assert values.equal(torch.cat([v for v, _ in alone]))
        assert ids.equal(torch.cat([i for _, i in alone]))

    @pytest.mark.parametrize("width", [60, 8192])
    def test_nan_gives_distinct_ids_in_range(self, select: Select, width: int) -> None:
        pre = noise(5, width, seed=11).round()
        pre[0, 3] = torch.nan
        pre[1, ::2] = torch.nan
        pre[2] = torch.nan
        pre[3].view(torch.int32).fill_(-1)
        pre[4] = torch.where(pre[4] > 0, torch.nan, 1.0)
        _, ids = select(pre, 50)
        assert all(len(set(row)) == 50 and min(row) >= 0 and max(row) < width for row in ids.tolist())


class TestTorchRoute(ExactTopKContract):
    @pytest.fixture(scope="class")
    def select(self) -> Select:
        return torch_topk


if torch.cuda.is_available():

    class TestOnAGpu(ExactTopKContract):
        @pytest.fixture(scope="class")
        def select(self) -> Select:
            def on_gpu(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
                values, ids = exact_topk(pre.cuda(), k)
                return values.cpu(), ids.cpu()

            return on_gpu


def test_half_precision_rows_are_selected_as_by_sorting() -> None:
    pre = noise(4, 8192, seed=12).bfloat16()
    assert_exact(pre, 50, exact_topk(pre, 50))


@pytest.mark.parametrize("k", [0, -1, 101])
def test_a_k_that_the_rows_cannot_give_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} with rows of 100"):
        exact_topk(torch.zeros(2, 100), k)


def test_selecting_on_a_cpu_does_not_import_triton() -> None:
    script = (
        "import sys, torch; from assay.sae_runtime.topk import exact_topk; exact_topk(torch.rand(2, 4096), 5);"
        "sys.exit('triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


def test_a_gpu_without_triton_takes_torchs_way() -> None:
    script = (
        "import sys; sys.modules['triton'] = None; from assay.sae_runtime.topk import _triton_route;"
        "sys.exit(_triton_route() is not None)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
