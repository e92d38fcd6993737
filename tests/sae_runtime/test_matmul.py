"""Half-precision encoders against float64: how much of the top k they change, and that scaling saves massive values."""

import pytest
import torch
from torch import Tensor

from assay.sae_runtime.matmul import Float32Matmul, HalfMatmul, SplitMatmul
from assay.sae_runtime.topk import exact_topk
from tests.sae_runtime.test_screening import encoder, residuals

K = 50


def changed_share(found_TF: Tensor, expected_TF: Tensor) -> float:
    """The share of the expected top k that the found pre-activations don't select."""
    expected, found = (exact_topk(pre_TF.float(), K)[1].tolist() for pre_TF in (expected_TF, found_TF))
    return sum(len(set(e) - set(f)) for e, f in zip(expected, found, strict=True)) / (K * len(expected))


def exactly(hidden_TD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor) -> Tensor:
    return hidden_TD.double() @ W_enc_FD.double().T + b_enc_F


@pytest.mark.parametrize("outliers", [0, 3])
def test_float16_weights_change_less_of_the_top_k_than_rounding_the_residual_does(outliers: int) -> None:
    W_enc_FD, b_enc_F = encoder(8192, 512)
    hidden_TD = residuals(128, 512, outliers=outliers)
    rounded_TD = hidden_TD.bfloat16()
    expected_TF = exactly(rounded_TD, W_enc_FD, b_enc_F)
    ours = changed_share(HalfMatmul(W_enc_FD, b_enc_F)(rounded_TD), expected_TF)
    assert ours < 0.002
    assert ours < changed_share(expected_TF, exactly(hidden_TD, W_enc_FD, b_enc_F))


@pytest.mark.parametrize("outliers", [0, 3])
def test_split_weights_give_the_float32_top_k_of_a_bfloat16_residual(outliers: int) -> None:
    W_enc_FD, b_enc_F = encoder(8192, 512)
    hidden_TD = residuals(128, 512, outliers=outliers).bfloat16()
    expected_TF = exactly(hidden_TD, W_enc_FD, b_enc_F)
    float32 = changed_share(Float32Matmul(W_enc_FD, b_enc_F)(hidden_TD), expected_TF)
    assert changed_share(SplitMatmul(W_enc_FD, b_enc_F)(hidden_TD), expected_TF) <= float32 + 0.0002


def test_a_residual_beyond_float16_is_scaled_and_not_lost() -> None:
    W_enc_FD, b_enc_F = encoder(1024, 64)
    hidden_TD = residuals(16, 64).bfloat16()
    hidden_TD[:, 3] = 3e5
    pre_TF = HalfMatmul(W_enc_FD, b_enc_F)(hidden_TD)
    exact_TF = exactly(hidden_TD, W_enc_FD, b_enc_F)
    assert pre_TF.isfinite().all()
    assert ((pre_TF - exact_TF).abs() <= 1e-3 * exact_TF.abs() + 1e-1).all()


def test_the_bias_survives_as_columns_of_the_weights() -> None:
    W_enc_FD, b_enc_F = encoder(512, 32)
    silent_TD = torch.zeros(2, 32, dtype=torch.bfloat16)
    for matmul in (HalfMatmul(W_enc_FD, b_enc_F), SplitMatmul(W_enc_FD, b_enc_F)):
        assert matmul(silent_TD).allclose(b_enc_F.expand(2, 512), rtol=1e-6)


def test_split_weights_refuse_a_residual_that_they_would_round() -> None:
    W_enc_FD, b_enc_F = encoder(64, 16)
    with pytest.raises(TypeError, match="bfloat16"):
        SplitMatmul(W_enc_FD, b_enc_F)(torch.zeros(1, 16))
