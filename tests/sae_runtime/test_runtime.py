"""The runtime against an independent reference: plain transformers, one document at a time, dense encode."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from assay.sae_runtime.runtime import Runtime
from assay.schemas.errors import AssayError
from assay.schemas.scope import Scope
from tests.checkpoints import D_MODEL, FAMILIES, LAYERS, save_checkpoint, save_saes

TEXTS = [
    "the quick brown fox",
    "a",
    "ab",
    "",
    "the lazy dog " * 40,
    "naïve café 漢字 🙂🙃 שלום <|endoftext|> \x00 end",
    "jumps over the cat and the dog " * 9,
]
SAE_LAYERS = [1, LAYERS - 1]


def reference(model, sae, tokenizer, text: str, layer: int, k: int) -> dict[int, tuple[float, float, int]]:
    """Feature -> (max, sum, count) over positions 1.. of one document, from a hook on the whole model."""
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        return {}
    kept = []
    text_model = getattr(model.model, "language_model", model.model)
    handle = text_model.layers[layer].register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    hidden = (kept[0][0] if isinstance(kept[0], tuple) else kept[0])[0]
    pre = torch.relu(hidden @ sae["W_enc"].T + sae["b_enc"])
    values, indices = torch.topk(pre, k, dim=-1)
    dense = torch.zeros_like(pre).scatter_(1, indices, values)[1:]
    active = (dense > 0).sum(0)
    return {int(f): (float(dense[:, f].max()), float(dense[:, f].sum()), int(active[f])) for f in active.nonzero()}


def make_scope(tmp_path: Path, **changes) -> Scope:
    values = {
        "name": "test",
        "backbone": str(tmp_path / "model"),
        "sae": str(tmp_path / "saes"),
        "layers": SAE_LAYERS,
        "norm_outlier": None,
        "top_m": 100_000,
        "batch_tokens": 512,
    }
    return Scope(**(values | changes))


@pytest.mark.parametrize("sharded", [False, True], ids=["single-file", "sharded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_plain_transformers_with_hooks(tmp_path: Path, family: str, sharded: bool) -> None:
    model = save_checkpoint(tmp_path / "model", family, sharded=sharded)
    saes = save_saes(tmp_path / "saes", SAE_LAYERS)
    runtime = Runtime(make_scope(tmp_path), device="cpu")
    assert len(runtime.backbone.model.layers) == LAYERS
    got = runtime.features(TEXTS)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "model" / "tokenizer.json"), split_special_tokens=True
    )
    for layer in SAE_LAYERS:
        features = got.layers[layer]
        for d, text in enumerate(TEXTS):
            want = reference(model, saes[layer], tokenizer, text, layer, k=16)
            mine = slice(features.offsets[d], features.offsets[d + 1])
            assert features.ids[mine].tolist() == sorted(want)
            assert features.count[mine].tolist() == [want[f][2] for f in sorted(want)]
            seen = max(1, got.n_tokens[d] - 1)
            np.testing.assert_allclose(features.max[mine], [want[f][0] for f in sorted(want)], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(
                features.mean[mine], [want[f][1] / seen for f in sorted(want)], rtol=1e-3, atol=1e-5
            )


def test_only_layers_up_to_the_deepest_hook_are_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_5")
    save_saes(tmp_path / "saes", [1])
    runtime = Runtime(make_scope(tmp_path, layers=[1]), device="cpu")
    names = {name for name, _ in runtime.backbone.model.named_parameters()}
    assert len(runtime.backbone.model.layers) == 2
    assert not any("visual" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_batching_does_not_change_a_document(tmp_path: Path, family: str) -> None:
    save_checkpoint(tmp_path / "model", family)
    save_saes(tmp_path / "saes", SAE_LAYERS)
    runtime = Runtime(make_scope(tmp_path), device="cpu")
    together = runtime.features(TEXTS).layers[1]
    for d, text in enumerate(TEXTS):
        alone = runtime.features([text]).layers[1]
        mine = slice(together.offsets[d], together.offsets[d + 1])
        assert together.ids[mine].tolist() == alone.ids.tolist()
        np.testing.assert_allclose(together.max[mine], alone.max, rtol=1e-3, atol=1e-5)


def test_a_long_document_is_windowed_and_each_token_counted_once(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    runtime = Runtime(make_scope(tmp_path, window=64, overlap=16), device="cpu")
    got = runtime.features(["the lazy dog " * 300])
    assert got.n_tokens[0] > 500
    assert got.tokens_seen[0] == got.n_tokens[0] - 1
    assert got.layers[1].count.sum() <= got.tokens_seen[0] * 16
    assert got.layers[1].count.sum() >= got.tokens_seen[0] * 15


def test_pruning_keeps_the_top_features_the_watched_ones_and_an_honest_floor(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    full = Runtime(make_scope(tmp_path), device="cpu").features(TEXTS[4:5]).layers[1]
    weakest = int(full.ids[full.max.argmin()])
    pruned = Runtime(make_scope(tmp_path, top_m=5), device="cpu", watched=[(1, weakest)]).features(TEXTS[4:5]).layers[1]
    largest = sorted(full.max.tolist(), reverse=True)
    assert weakest in pruned.ids
    assert len(pruned.ids) == 6
    assert sorted(pruned.max.tolist(), reverse=True)[:5] == largest[:5]
    assert pruned.floor[0] == largest[5]
    assert full.floor[0] == 0


def test_norm_outliers_are_left_out_of_every_layer(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    runtime = Runtime(make_scope(tmp_path, norm_outlier=5.0), device="cpu")
    # One token's embedding is blown up, as an attention sink's residual would be.
    token = runtime.tokenizer.encode([" fox"])[0][0]
    runtime.backbone.model.embed_tokens.weight[token] *= 1e4
    got = runtime.features(["the quick brown fox jumps over the lazy dog"])
    assert got.tokens_seen[0] == got.n_tokens[0] - 2


def test_firings_are_the_document_features_with_their_place_in_the_text(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    runtime = Runtime(make_scope(tmp_path, window=32, overlap=8), device="cpu")
    text = "🙂 the quick brown fox, naïve café " * 8
    features = runtime.features([text]).layers[1]
    wanted = features.ids[:40].tolist()
    firings = runtime.trace(text, {1: wanted})
    assert {f.feature for f in firings} == set(wanted)
    counts = {f: sum(1 for x in firings if x.feature == f) for f in wanted}
    assert [counts[f] for f in wanted] == features.count[:40].tolist()
    assert all(0 <= f.start < f.end <= len(text) for f in firings)


def test_an_sae_of_another_width_is_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    torch.save({"W_enc": torch.zeros(8, D_MODEL + 1), "b_enc": torch.zeros(8)}, tmp_path / "saes" / "layer1.sae.pt")
    with pytest.raises(AssayError, match=r"layer1\.sae\.pt.*d_model 65.*has 64"):
        Runtime(make_scope(tmp_path, layers=[1], k=4), device="cpu")
    with pytest.raises(AssayError, match=r"differ in \(d_sae, d_model\): \[\(8, 65\), \(1024, 64\)\]"):
        Runtime(make_scope(tmp_path), device="cpu")


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    torch.save({"W_enc": Path("/tmp"), "b_enc": 1}, tmp_path / "saes" / "layer1.sae.pt")
    with pytest.raises(AssayError, match="more than tensors"):
        Runtime(make_scope(tmp_path), device="cpu")


def test_a_truncated_sae_file_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    path = tmp_path / "saes" / "layer1.sae.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AssayError, match=r"layer1\.sae\.pt"):
        Runtime(make_scope(tmp_path), device="cpu")


def test_a_layer_without_an_sae_lists_those_that_have_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", [1])
    with pytest.raises(AssayError, match=r"no SAE for layer 2(.|\n)*\[1\]"):
        Runtime(make_scope(tmp_path, layers=[2]), device="cpu")


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_checkpoint(folder, "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    config = (folder / "config.json").read_text().replace('"qwen3"', '"llama"')
    (folder / "config.json").write_text(config)
    with pytest.raises(AssayError, match="family 'llama' is not supported"):
        Runtime(make_scope(tmp_path), device="cpu")


def test_other_settings_give_another_fingerprint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    plain = Runtime(make_scope(tmp_path), device="cpu")
    again = Runtime(make_scope(tmp_path), device="cpu")
    pruned = Runtime(make_scope(tmp_path, top_m=7), device="cpu")
    windowed = Runtime(make_scope(tmp_path, window=64, overlap=8), device="cpu")
    assert again.features_fingerprint == plain.features_fingerprint
    assert pruned.encoder_fingerprint == plain.encoder_fingerprint
    assert pruned.features_fingerprint != plain.features_fingerprint
    assert windowed.encoder_fingerprint != plain.encoder_fingerprint
