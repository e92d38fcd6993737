"""Mean residuals against plain transformers with hooks, over the very tokens that the features are pooled over."""

from typing import Any

import numpy as np
import pytest
import torch

from assay.sae_runtime.residual_mean import ResidualMeans, window_sums
from assay.sae_runtime.runtime import Runtime
from assay.schemas.base import fingerprint
from assay.schemas.scope import FeaturesIdentity
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import ELEVEN_BITS, TEXTS, tiny_scope, words


def assert_means(checkpoint: Checkpoint, texts: tuple[str, ...], **changes: Any) -> dict[int, np.ndarray]:
    runtime = Runtime(tiny_scope(checkpoint.folder, residuals=True, **changes), device="cpu", threads=1)
    got = runtime.features(texts).residual_means
    assert got is not None
    settings = {name: value for name, value in changes.items() if name != "batch_tokens"}
    want = [checkpoint.reference(**settings).residual_means(text) for text in texts]
    for layer, mean_ND in got.items():
        want_ND = np.stack([means[layer].numpy() for means in want])
        assert mean_ND.shape == want_ND.shape
        assert mean_ND.dtype == np.float32
        assert (np.abs(mean_ND - want_ND) <= ELEVEN_BITS * np.abs(want_ND) + 2e-5 * np.abs(want_ND).max()).all()
    return got


def test_the_mean_is_over_the_counted_tokens_of_every_window(checkpoint: Checkpoint) -> None:
    got = assert_means(checkpoint, TEXTS)
    empty, one_token = TEXTS.index(""), TEXTS.index("a")
    for mean_ND in got.values():
        assert not mean_ND[[empty, one_token]].any()
        assert np.delete(mean_ND, [empty, one_token], axis=0).any(1).all()


def test_position_0_outliers_and_tokens_beyond_the_limit_take_no_part(qwen3: Checkpoint) -> None:
    texts = (words(90), words(33, seed=1), words(200, seed=2))
    plain = assert_means(qwen3, texts)
    # At 1.05 medians many tokens are outliers.
    for changes in ({"mask_first": False}, {"norm_outlier": 1.05}, {"max_tokens": 20}):
        other = assert_means(qwen3, texts, **changes)
        assert all((other[layer] != plain[layer]).any(1).all() for layer in plain)


def test_batches_change_a_mean_only_by_rounding(qwen3: Checkpoint) -> None:
    texts = tuple(words(n, seed=n) for n in (5, 190, 40, 64, 300, 7))
    by_size = [
        Runtime(tiny_scope(qwen3.folder, residuals=True, batch_tokens=size), device="cpu", threads=1).features(texts)
        for size in (64, 512, 4096)
    ]
    first, *others = [found.residual_means for found in by_size]
    assert first is not None
    for other in others:
        assert other is not None
        for layer, mean_ND in first.items():
            error = np.abs(other[layer] - mean_ND)
            assert (error <= 2 * ELEVEN_BITS * np.abs(mean_ND) + 2e-5 * np.abs(mean_ND).max()).all()


def test_a_scope_without_residuals_keeps_none_and_gives_the_same_features_under_the_same_name(
    qwen3: Checkpoint,
) -> None:
    scope = tiny_scope(qwen3.folder, top_m=32)
    without, with_them = (
        Runtime(scope.model_copy(update={"residuals": kept}), device="cpu", threads=1) for kept in (False, True)
    )
    plain, more = without.features(TEXTS), with_them.features(TEXTS)
    assert plain.residual_means is None
    for layer, sparse in plain.layers.items():
        for name in ("offsets", "ids", "max", "mean", "count", "floor", "outliers"):
            assert (getattr(sparse, name) == getattr(more.layers[layer], name)).all()
    assert without.encoder_fingerprint == with_them.encoder_fingerprint
    assert without.features_fingerprint != with_them.features_fingerprint


def test_features_without_residuals_are_named_as_before_there_were_any() -> None:
    identity = FeaturesIdentity(encoder="e" * 16, top_m=256, watched=((2, 5),), batch_tokens=1024, compile=False)
    before = {"encoder": "e" * 16, "top_m": 256, "watched": [[2, 5]], "batch_tokens": 1024, "compile": False}
    assert fingerprint(identity) == fingerprint(before | {"format": "assay.features/2"})
    assert FeaturesIdentity.model_validate(identity.model_dump(mode="json")) == identity
    kept = identity.model_copy(update={"residuals": True})
    assert FeaturesIdentity.model_validate(kept.model_dump(mode="json")).residuals


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_isnt_counted_may_hold_anything(dtype: torch.dtype) -> None:
    hidden_BLD = torch.arange(24, dtype=dtype).reshape(2, 4, 3)
    hidden_BLD[0, 3], hidden_BLD[1, 0] = torch.nan, torch.inf
    counted_BL = torch.tensor([[True, True, False, False], [False, True, True, True]])
    assert window_sums(hidden_BLD, counted_BL).tolist() == [[3, 5, 7], [54, 57, 60]]


def test_windows_of_one_document_add_up() -> None:
    means = ResidualMeans(3, 2)
    means.add(torch.tensor([2, 0, 2]), torch.tensor([[1.0, 2], [8, 8], [3, 4]], dtype=torch.double))
    means.add(torch.tensor([2]), torch.tensor([[4.0, 0]], dtype=torch.double))
    assert means.finish(np.array([4, 0, 2])).tolist() == [[2, 2], [0, 0], [4, 3]]
