"""The int8 screen against the dense float32 encoder: it must find the same top k, whatever the data."""

import pytest
import torch
from torch import Tensor

from assay.sae_runtime.screening import Int8Screen, quantise_rows
from assay.sae_runtime.topk import exact_topk


def encoder(d_sae: int, d_model: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    W_enc_FD = torch.randn(d_sae, d_model, generator=generator)
    W_enc_FD /= W_enc_FD.norm(dim=1, keepdim=True)
    return W_enc_FD, torch.randn(d_sae, generator=generator) * 0.05 - 0.5


def residuals(tokens: int, d_model: int, *, outliers: int = 0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    hidden_TD = torch.randn(tokens, d_model, generator=generator)
    hidden_TD[:, :outliers] *= 40
    return hidden_TD


def assert_same_topk(screen: Int8Screen, hidden_TD: Tensor) -> None:
    found = screen.topk(hidden_TD)
    assert found is not None
    dense_TF = (hidden_TD.double() @ screen.W_enc_FD.double().T + screen.b_enc_F).float()
    acts_TK, ids_TK = exact_topk(dense_TF, screen.k)
    sure_T = ~found.unsure_T
    assert sure_T.float().mean() > 0.9
    assert torch.gather(dense_TF, 1, found.ids_TK)[sure_T].allclose(found.acts_TK[sure_T], rtol=1e-5, atol=1e-5)
    differs_T = (found.ids_TK.sort(1).values != ids_TK.sort(1).values).any(1) & sure_T
    kth_T = acts_TK.amin(1)
    for t in differs_T.nonzero().flatten().tolist():
        strangers = set(ids_TK[t].tolist()) ^ set(found.ids_TK[t].tolist())
        assert all(abs(dense_TF[t, f] - kth_T[t]) < 1e-5 for f in strangers), "differs by more than a near-tie"


@pytest.mark.parametrize(
    ("d_sae", "d_model", "k"), [(4096, 256, 50), (8192, 512, 100), (32768, 384, 50), (1000, 64, 8)]
)
def test_the_screen_finds_the_float32_top_k(d_sae: int, d_model: int, k: int) -> None:
    W_enc_FD, b_enc_F = encoder(d_sae, d_model)
    assert_same_topk(Int8Screen(W_enc_FD, b_enc_F, *quantise_rows(W_enc_FD), k), residuals(96, d_model))


def test_massive_residual_dimensions_cost_candidates_but_no_winner() -> None:
    W_enc_FD, b_enc_F = encoder(4096, 256)
    screen = Int8Screen(W_enc_FD, b_enc_F, *quantise_rows(W_enc_FD), 50)
    plain, massive = residuals(64, 256), residuals(64, 256, outliers=2)
    assert len(screen._candidates(massive)[2]) > len(screen._candidates(plain)[2])
    assert_same_topk(screen, massive)


def test_a_block_with_too_many_candidates_is_left_to_the_dense_encoder() -> None:
    W_enc_FD, b_enc_F = encoder(4096, 256)
    hidden_TD = residuals(32, 256)
    hidden_TD[:, 0] = 1e4
    W_enc_FD[:, 0] = 1e-3
    assert Int8Screen(W_enc_FD, b_enc_F, *quantise_rows(W_enc_FD), 50).topk(hidden_TD) is None


def test_residuals_that_are_not_finite_are_left_to_the_dense_encoder() -> None:
    W_enc_FD, b_enc_F = encoder(4096, 256)
    hidden_TD = residuals(8, 256)
    hidden_TD[3, 5] = torch.nan
    assert Int8Screen(W_enc_FD, b_enc_F, *quantise_rows(W_enc_FD), 50).topk(hidden_TD) is None


def test_twin_features_tie_and_the_lower_id_wins() -> None:
    W_enc_FD, b_enc_F = encoder(2048, 256)
    W_enc_FD[1::2], b_enc_F[1::2] = W_enc_FD[::2].clone(), b_enc_F[::2].clone()
    found = Int8Screen(W_enc_FD, b_enc_F, *quantise_rows(W_enc_FD), 7).topk(residuals(50, 256))
    assert found is not None
    for ids in found.ids_TK.tolist():
        alone = [f for f in ids if f ^ 1 not in ids]
        assert len(alone) == 1
        assert alone[0] % 2 == 0


def test_a_silent_residual_has_only_biases() -> None:
    W_enc_FD, b_enc_F = encoder(1024, 256)
    found = Int8Screen(W_enc_FD, b_enc_F, *quantise_rows(W_enc_FD), 5).topk(torch.zeros(3, 256))
    assert found is not None
    assert found.acts_TK.sort(1, descending=True).values.allclose(b_enc_F.topk(5).values.expand(3, 5))


def test_quantised_rows_are_within_half_a_step() -> None:
    W_enc_FD, _ = encoder(512, 64)
    W_enc_FD[7] = 0
    W_int8_FD, scale_F = quantise_rows(W_enc_FD)
    assert W_int8_FD.dtype == torch.int8
    assert ((W_int8_FD * scale_F[:, None] - W_enc_FD).abs() <= 0.5001 * scale_F[:, None]).all()
