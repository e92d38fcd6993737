"""Start-up measurements: they decide on a clear lead only, and leave the process as it was."""

import os

import pytest
import torch

from assay.sae_runtime import hardware
from assay.sae_runtime.hardware import GemmRates, best_threads, cpu_rates, settle_screen
from assay.schemas.scope import FeaturesIdentity, Scope


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


SCOPE = Scope(name="x", backbone="b", sae="s", layers=(1,)).on("cpu")


@pytest.mark.parametrize("fast", [True, False])
def test_the_screen_is_measured_where_the_scope_leaves_it_open_and_then_said(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(hardware, "cpu_rates", lambda: GemmRates(100, 100, 1000 if fast else 100))
    settled = settle_screen(SCOPE, "cpu", 512)
    assert settled.screen is fast
    monkeypatch.setattr(hardware, "cpu_rates", lambda: GemmRates(100, 100, 100 if fast else 1000))
    assert settle_screen(settled, "cpu", 512).screen is fast, "a worker under load must do as the driver said"


def test_a_screen_that_can_not_be_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_rates", lambda: GemmRates(100, 100, 1000))
    assert settle_screen(SCOPE, "cuda", 512).screen is False
    assert settle_screen(SCOPE, "cpu", 128).screen is False
    assert settle_screen(SCOPE.model_copy(update={"exact": True}), "cpu", 512).screen is False


def test_screened_features_have_a_name_of_their_own() -> None:
    plain, screened = (
        FeaturesIdentity.of(SCOPE.model_copy(update={"screen": screen}), "f" * 16, ()) for screen in (False, True)
    )
    assert "screen" not in plain.model_dump()
    assert screened.model_dump()["screen"] is True
