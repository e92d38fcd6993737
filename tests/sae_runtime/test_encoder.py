"""The encoder as loaded from a file, against the formula of its activation, one token at a time."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from assay.sae_runtime.encoder import Activations, Encoder
from assay.sae_runtime.matmul import HalfMatmul
from assay.sae_runtime.sae_files import find_sae
from assay.schemas.errors import AssayError

D_MODEL, D_SAE, K = 256, 2048, 24

Active = dict[tuple[int, int], float]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    W_enc = torch.randn(D_SAE, D_MODEL, generator=generator) / D_MODEL**0.5
    return {
        "W_enc": W_enc,
        "W_dec": W_enc.T.contiguous(),
        "b_enc": torch.randn(D_SAE, generator=generator) * 0.1,
        "b_dec": torch.randn(D_MODEL, generator=generator),
    }


def residuals(tokens: int) -> Tensor:
    return torch.randn(tokens, D_MODEL, generator=torch.Generator().manual_seed(4))


def topk_sae(folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    torch.save(weights(), folder / "layer0.sae.pt")
    (folder / "config.json").write_text(json.dumps({"k": K}))
    return weights()


def load(folder: Path, *, k: int | None = None, d_model: int = D_MODEL, screen: bool = False) -> Encoder:
    sae, cpu = find_sae(folder, 0), torch.device("cpu")
    return Encoder(sae, k=k, d_model=d_model, device=cpu, dtype=torch.float32, exact=False, screen=screen)


def active(found: Activations) -> Active:
    entries = zip(found.token_A.tolist(), found.ids_A.tolist(), found.acts_A.tolist(), strict=True)
    return {(token, feature): act for token, feature, act in entries}


def by_hand(hidden_TD: Tensor, sae: dict[str, Tensor], k: int) -> Active:
    """relu, then the k largest, for each token alone."""
    found: Active = {}
    for t, hidden_D in enumerate(hidden_TD):
        pre_F = (sae["W_enc"] @ hidden_D + sae["b_enc"]).relu()
        acts, ids = pre_F.topk(k)
        found |= {(t, f): a for f, a in zip(ids.tolist(), acts.tolist(), strict=True) if a > 0}
    return found


@pytest.mark.parametrize("screen", [True, False], ids=["screened", "dense"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 700])
def test_topk_activations_are_those_of_the_formula(tmp_path: Path, screen: bool, tokens: int) -> None:
    sae = topk_sae(tmp_path / "sae")
    found = active(load(tmp_path / "sae", screen=screen).encode(residuals(tokens)))
    assert found == pytest.approx(by_hand(residuals(tokens), sae, K), rel=1e-5)


def test_no_tokens_have_no_features_with_half_precision_weights_either(tmp_path: Path) -> None:
    sae = topk_sae(tmp_path / "sae")
    encoder = load(tmp_path / "sae")
    encoder._matmul = HalfMatmul(sae["W_enc"], sae["b_enc"])
    encoder._screen = None
    assert [len(column) for column in encoder.encode(residuals(0))] == [0, 0, 0]
    assert len(encoder.encode(residuals(1)).acts_A) == K


def test_entries_come_in_order_of_token(tmp_path: Path) -> None:
    topk_sae(tmp_path / "sae")
    token_A = load(tmp_path / "sae").encode(residuals(3000)).token_A
    assert (token_A.diff() >= 0).all()
    assert token_A.max() == 2999


def test_only_an_encoder_that_is_asked_to_screens(tmp_path: Path) -> None:
    topk_sae(tmp_path / "sae")
    assert load(tmp_path / "sae", screen=True)._screen is not None
    assert load(tmp_path / "sae")._screen is None


def test_a_token_the_screen_is_unsure_of_is_encoded_densely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.sae_runtime.screening._CERTAIN", 1e9)
    sae = topk_sae(tmp_path / "sae")
    found = active(load(tmp_path / "sae", screen=True).encode(residuals(20)))
    assert found == pytest.approx(by_hand(residuals(20), sae, K), rel=1e-5)


def test_features_that_are_not_positive_are_not_active(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    folder.mkdir()
    torch.save(weights() | {"b_enc": torch.full((D_SAE,), -3.0)}, folder / "layer0.sae.pt")
    (folder / "config.json").write_text(json.dumps({"k": K}))
    found = load(folder).encode(residuals(50))
    assert 0 < len(found.acts_A) < 50 * K
    assert (found.acts_A > 0).all()


def test_thresholds_decide_where_the_sae_is_a_jumprelu(tmp_path: Path) -> None:
    folder, sae = tmp_path / "sae", weights()
    folder.mkdir()
    threshold = torch.linspace(0.5, 2.0, D_SAE)
    tensors = {"W_enc": sae["W_enc"].T.contiguous(), "W_dec": sae["W_dec"].T.contiguous(), "threshold": threshold}
    save_file(tensors | {"b_enc": sae["b_enc"], "b_dec": sae["b_dec"]}, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu", "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "apply_b_dec_to_input": False,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": "blocks.0.hook_resid_post"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    found = active(load(folder).encode(residuals(40)))
    pre_TF = residuals(40) @ sae["W_enc"].T + sae["b_enc"]
    above = (pre_TF > threshold).nonzero().tolist()
    assert found == pytest.approx({(t, f): pre_TF[t, f].item() for t, f in above}, rel=1e-5)
    assert len({token for token, _ in found}) > 30


def test_k_can_be_given_and_must_fit(tmp_path: Path) -> None:
    sae = topk_sae(tmp_path / "sae")
    assert active(load(tmp_path / "sae", k=3).encode(residuals(9))) == pytest.approx(by_hand(residuals(9), sae, 3))
    with pytest.raises(AssayError, match="k = 4096 with d_sae = 2048"):
        load(tmp_path / "sae", k=4096)


def test_an_encoder_of_another_width_is_refused_by_name(tmp_path: Path) -> None:
    topk_sae(tmp_path / "sae")
    with pytest.raises(AssayError, match=r"layer0.sae.pt: the SAE is for d_model 256, the backbone has 512"):
        load(tmp_path / "sae", d_model=512)
