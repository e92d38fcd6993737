"""Start-up measurements: they decide on a clear lead only, and leave the process as it was."""

import os

import pytest
import torch

from assay.sae_runtime.hardware import GemmRates, best_threads, cpu_rates


def test_rates_are_measured_once_a_process() -> None:
    assert cpu_rates() is cpu_rates()
    assert min(cpu_rates().float32, cpu_rates().bfloat16) > 1e8


@pytest.mark.parametrize(
    ("rates", "bfloat16", "int8"),
    [
        (GemmRates(100, 700, 1300), True, True),
        (GemmRates(100, 66, 390), False, True),
        (GemmRates(100, 140, 240), False, False),
        (GemmRates(100, 100, 0), False, False),
    ],
)
def test_a_type_is_chosen_on_a_clear_lead_only(rates: GemmRates, bfloat16: bool, int8: bool) -> None:
    assert (rates.bfloat16_pays, rates.int8_pays) == (bfloat16, int8)


def test_threads_lie_between_one_and_the_cores_and_the_process_keeps_its_own() -> None:
    kept = torch.get_num_threads()
    best_threads.cache_clear()
    assert 1 <= best_threads() <= len(os.sched_getaffinity(0))
    assert torch.get_num_threads() == kept
