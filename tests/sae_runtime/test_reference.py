"""The runtime against an independent reference: plain transformers, one document at a time, dense encode."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assay.sae_runtime import hardware
from assay.sae_runtime.runtime import Runtime
from assay.sae_runtime.screening import Int8Screen, Screened
from tests.checkpoints import LAYERS
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.reference import Document, LayerFeatures, Reference
from tests.sae_runtime.tiny import TEXTS, K, assert_features, differences, tiny_scope, words

LAST = LAYERS - 1


@pytest.fixture(params=["plain", "screened"])
def encoder_settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The float32 encoder alone, and behind an int8 screen as on a machine where int8 is much faster."""
    tokens = {"screened": 0, "sure": 0}
    screen = Int8Screen.topk

    def counting(self: Int8Screen, hidden_TD: Tensor) -> Screened | None:
        found = screen(self, hidden_TD)
        tokens["screened"] += len(hidden_TD)
        tokens["sure"] += int((~found.unsure_T).sum()) if found else 0
        return found

    monkeypatch.setattr(Int8Screen, "topk", counting)
    monkeypatch.setattr(hardware, "SCREEN_FROM", 0)
    yield {"exact": False, "screen": request.param == "screened"}
    assert (tokens["screened"] > 0) == (request.param == "screened")
    assert tokens["sure"] >= 0.5 * tokens["screened"], "the screen left most tokens to the float32 encoder"


@pytest.mark.parametrize("layers", [(1,), (LAST,), (0, 2, LAST)], ids=["one", "the-last", "several"])
def test_features_equal_plain_transformers_with_hooks(
    checkpoint: Checkpoint, encoder_settings: dict[str, Any], layers: tuple[int, ...]
) -> None:
    want = checkpoint.documents(TEXTS)
    runtime = Runtime(tiny_scope(checkpoint.folder, layers=layers, **encoder_settings), device="cpu", threads=1)
    got = runtime.features(TEXTS)
    assert_features(got, want)
    assert all(len(features.ids) > 500 for features in got.layers.values())
    ties = sum(document.layers[layer].ties for document in want for layer in layers)
    assert ties <= 0.01 * len(layers) * got.tokens_seen.sum(), "too many near-ties for the test to say much"


def test_position_0_is_counted_only_where_the_scope_says_so(checkpoint: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(checkpoint.folder, mask_first=False), device="cpu", threads=1)
    got = runtime.features(TEXTS)
    assert_features(got, checkpoint.documents(TEXTS, mask_first=False))
    assert got.tokens_seen.tolist() == got.n_tokens.tolist()


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5"])
def test_the_last_entry_of_hidden_states_gives_other_features_than_the_hook(
    checkpoint_of: Callable[[str], Checkpoint], family: str
) -> None:
    checkpoint = checkpoint_of(family)
    texts = [text for text in TEXTS if len(text) > 4]
    scope = tiny_scope(checkpoint.folder, layers=(LAST - 1, LAST), window=1024)
    got = Runtime(scope, device="cpu", threads=1).features(texts)
    from_hidden_states = [_document_from_hidden_states(checkpoint.reference(window=1024), text) for text in texts]
    problems = differences(got, from_hidden_states)
    for d in range(len(texts)):
        assert not any(problem.startswith(f"document {d}, layer {LAST - 1}:") for problem in problems)
        assert any(problem.startswith(f"document {d}, layer {LAST}: count") for problem in problems)


def _document_from_hidden_states(reference: Reference, text: str) -> Document:
    ids = reference.tokenizer.encode(text)
    with torch.no_grad():
        states = reference.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    layers = {layer: LayerFeatures.none(len(sae["b_enc"])) for layer, sae in reference.saes.items()}
    for layer, features in layers.items():
        features.add(reference.choose(layer, states[layer + 1][0, 1:]))
    return Document(len(ids), len(ids) - 1, layers)


def test_a_token_with_fewer_than_k_positive_features_has_only_those(
    tmp_path: Path, qwen3: Checkpoint, encoder_settings: dict[str, Any]
) -> None:
    (tmp_path / "model").symlink_to(qwen3.folder / "model")
    (tmp_path / "saes").mkdir()
    residuals_TD = qwen3.reference().residuals(qwen3.reference().tokenizer.encode(words(60)))[1]
    sae = dict(qwen3.saes[1])
    # A typical token keeps about half of k features above 0.
    tenth_T = torch.topk(residuals_TD @ sae["W_enc"].T + sae["b_enc"], K // 2).values[:, -1]
    sae["b_enc"] = sae["b_enc"] - tenth_T.median()
    torch.save(sae, tmp_path / "saes" / "layer1.sae.pt")
    scope = tiny_scope(tmp_path, layers=(1,), k=K, **encoder_settings)
    got = Runtime(scope, device="cpu", threads=1).features([words(60), "a", "ab"])
    reference = Reference(tmp_path / "model", {1: sae}, k=K, window=scope.window, overlap=scope.overlap)
    assert_features(got, [reference.document(text) for text in (words(60), "a", "ab")])
    assert 4 * 59 < got.layers[1].count[: got.layers[1].offsets[1]].sum() < 13 * 59


# bfloat16


def test_in_bfloat16_the_encoder_adds_nothing_to_the_rounding_of_the_residual(
    checkpoint: Checkpoint, encoder_settings: dict[str, Any]
) -> None:
    scope = tiny_scope(checkpoint.folder, dtype="bfloat16", window=1024, **encoder_settings)
    runtime = Runtime(scope, device="cpu", threads=1)
    for text in TEXTS:
        # Alone: in bfloat16 the shape of a batch decides how its residuals are rounded.
        want = checkpoint.documents([text], dtype=torch.bfloat16, window=1024)
        assert_features(runtime.features([text]), want)


def test_in_bfloat16_the_top_k_changes_as_much_as_noise_of_its_rounding_makes_it(
    checkpoint: Checkpoint, record_property: Callable[[str, object], None]
) -> None:
    text = words(400)
    exact = checkpoint.reference()
    ids = exact.tokenizer.encode(text)
    exact_TD = exact.residuals(ids)
    rounded_TD = checkpoint.reference(dtype=torch.bfloat16).residuals(ids)
    runtime = Runtime(tiny_scope(checkpoint.folder, dtype="bfloat16", window=1024), device="cpu", threads=1)
    traced = _top_k_of(runtime, text, len(ids))
    report = []
    for layer, hidden_TD in exact_TD.items():
        error_T1 = (rounded_TD[layer] - hidden_TD).norm(dim=1, keepdim=True)
        noise_TD = torch.randn(hidden_TD.shape, generator=torch.Generator().manual_seed(layer))
        noisy_TD = hidden_TD + error_T1 * noise_TD / noise_TD.norm(dim=1, keepdim=True)
        want_TF = exact.choose(layer, hidden_TD).sure_TF[1:]
        changed = _share_lost(want_TF, traced[layer][1:])
        by_noise = _share_lost(want_TF, exact.choose(layer, noisy_TD).sure_TF[1:])
        size = float((error_T1 / hidden_TD.norm(dim=1, keepdim=True)).median())
        report.append((layer, changed, by_noise, size))
    lines = [
        f"layer {layer}: {changed:.2%} of the top k differ from float32's; noise as large as the residual's error "
        f"(median {size:.2%} of its norm) changes {by_noise:.2%}"
        for layer, changed, by_noise, size in report
    ]
    record_property(f"bfloat16 {checkpoint.family}", "\n".join(lines))
    assert all(changed <= 1.5 * by_noise + 0.01 for _, changed, by_noise, _ in report), "\n".join(lines)
    assert all(changed > 0 for _, changed, _, _ in report), "was the backbone in float32 after all?"


def _top_k_of(runtime: Runtime, text: str, tokens: int) -> dict[int, Tensor]:
    """Layer -> which features are active on which token; the text is of ASCII, and its tokens follow each other."""
    ends = {start: t for t, (start, _) in enumerate(runtime.tokenizer.encode_with_offsets(text).offsets)}
    active = {layer: torch.zeros(tokens, runtime.d_sae, dtype=torch.bool) for layer in runtime.scope.layers}
    for firing in runtime.trace(text, {layer: range(runtime.d_sae) for layer in runtime.scope.layers}):
        active[firing.layer][ends[firing.start], firing.feature] = True
    return active


def _share_lost(want_TF: Tensor, got_TF: Tensor) -> float:
    return 1 - float((want_TF & got_TF).sum() / want_TF.sum())
