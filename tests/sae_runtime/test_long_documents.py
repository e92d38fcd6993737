"""Documents past the window: each token counted once, with context, sinks and outliers masked, and nothing lost."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.sae_runtime.runtime import ChunkFeatures, Runtime
from tests.checkpoints import LAYERS, causal_lm, save_checkpoint, save_model, save_saes
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.reference import Reference
from tests.sae_runtime.tiny import OVERLAP, WINDOW, K, assert_features, tiny_scope, words

OUTLIER = " fox"


def dense(got: ChunkFeatures, layer: int, column: str, document: int = 0) -> np.ndarray:
    """One column of a document's features, by feature id."""
    features = got.layers[layer]
    values = np.zeros(1024)
    mine = slice(features.offsets[document], features.offsets[document + 1])
    values[features.ids[mine]] = getattr(features, column)[mine]
    return values


# Windows


@pytest.mark.parametrize(("window", "overlap"), [(64, 16), (33, 1), (9, 8)])
def test_each_token_of_a_long_document_is_counted_once_and_with_its_context(
    checkpoint: Checkpoint, window: int, overlap: int
) -> None:
    texts = [words(n) for n in (window - 1, window, window + 1, 2 * window - overlap, 3 * window)]
    scope = tiny_scope(checkpoint.folder, layers=(0, 3), window=window, overlap=overlap)
    got = Runtime(scope, device="cpu", threads=1).features(texts)
    assert got.tokens_seen.tolist() == (got.n_tokens - 1).tolist()
    assert_features(got, checkpoint.documents(texts, window=window, overlap=overlap))
    for document in range(len(texts)):
        assert dense(got, 3, "count", document).sum() == K * got.tokens_seen[document]


def test_a_later_window_sees_the_tokens_before_it(checkpoint: Checkpoint) -> None:
    """Its counted tokens fire as they do in a document that starts at the window, and not as in one without context."""
    runtime = Runtime(tiny_scope(checkpoint.folder, layers=(3,), mask_first=False), device="cpu", threads=1)
    tokens = words(WINDOW + 20).split()
    # The two windows of the document meet at token WINDOW; the second one starts OVERLAP tokens before.
    in_document, with_context, without = (
        [
            (f.start - at, f.feature, pytest.approx(f.act, rel=1e-4))
            for at in [len(_text(tokens[start:WINDOW]))]
            for f in runtime.trace(_text(tokens[start:]), {3: range(1024)})
            if f.start >= at
        ]
        for start in (0, WINDOW - OVERLAP, WINDOW)
    )
    assert len(in_document) == 20 * K
    assert in_document == with_context
    assert in_document != without


def _text(tokens: Sequence[str]) -> str:
    return "".join(f" {token}" for token in tokens)


def test_a_document_of_200_000_tokens_is_counted_whole_in_bounded_memory(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", (0, 1), k=64)
    # In a process of its own, because the peak of this one lies in its past.
    command = [sys.executable, "-c", _LONG_DOCUMENT, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    n_tokens, tokens_seen, least, most, growth = (float(x) for x in result.stdout.split())
    assert n_tokens == 200_000
    assert tokens_seen == 199_999
    assert least == most == 64 * 199_999
    assert growth < 300, "MB; its activations (token, feature, value) take 510, dense ones 1600"


_LONG_DOCUMENT = """
import resource, sys
from pathlib import Path
from assay.sae_runtime.runtime import Runtime
from tests.sae_runtime.tiny import tiny_scope, words

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

scope = tiny_scope(Path(sys.argv[1]), layers=(0, 1), window=512, batch_tokens=4096)
runtime = Runtime(scope, device="cpu", threads=1)
text = words(200_000)
runtime.tokenizer.encode([text])
runtime.features([words(10_000)])
before = peak()
got = runtime.features([text])
counts = [features.count.sum() for features in got.layers.values()]
print(got.n_tokens[0], got.tokens_seen[0], min(counts), max(counts), peak() - before)
"""


@pytest.mark.parametrize("max_tokens", [1, 2, 50, WINDOW, 100, 10**6])
def test_tokens_past_the_limit_are_told_from_tokens_seen(checkpoint: Checkpoint, max_tokens: int) -> None:
    texts = ["", words(1), words(60), words(300)]
    scope = tiny_scope(checkpoint.folder, layers=(0, 3), max_tokens=max_tokens)
    got = Runtime(scope, device="cpu", threads=1).features(texts)
    assert got.n_tokens.tolist() == [0, 1, 60, 300]
    assert got.tokens_seen.tolist() == [max(0, min(n, max_tokens) - 1) for n in (0, 1, 60, 300)]
    assert_features(got, checkpoint.documents(texts, max_tokens=max_tokens))


def test_the_first_token_of_each_window_is_masked_or_counted_as_the_scope_says(qwen3: Checkpoint) -> None:
    text = words(3 * WINDOW)
    for mask_first in (True, False):
        scope = tiny_scope(qwen3.folder, mask_first=mask_first)
        got = Runtime(scope, device="cpu", threads=1).features([text])
        assert got.tokens_seen.tolist() == [3 * WINDOW - mask_first]
        assert_features(got, qwen3.documents([text], mask_first=mask_first))


# Norm outliers


@pytest.fixture(scope="module")
def sunken(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint in which one token's residual is very large, the more so the nearer it is to the embedding.

    So is that of token 0, with which batches are padded.
    """
    folder = tmp_path_factory.mktemp("sunken")
    model = causal_lm("qwen3")
    save_model(folder / "model", model)
    saes = save_saes(folder / "saes", range(LAYERS), k=K)
    token = Reference(folder / "model", saes).tokenizer.encode(OUTLIER)[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[[0, token]] *= 200
    (folder / "again").mkdir()
    save_model(folder / "again" / "model", model)
    (folder / "again" / "saes").symlink_to(folder / "saes")
    return Checkpoint("qwen3", folder / "again", saes)


def _without(text: str) -> str:
    return text.replace(OUTLIER, " cat")


TEXT = " the" + OUTLIER + _without(words(2 * WINDOW)) + OUTLIER + " dog"


def _ratios(checkpoint: Checkpoint) -> dict[int, float]:
    """Layer -> the outlier's norm over the median norm, of the first window."""
    reference = checkpoint.reference()
    hidden = reference.residuals(reference.tokenizer.encode(TEXT)[:WINDOW])
    norms = {layer: hidden_TD.norm(dim=1)[1:] for layer, hidden_TD in hidden.items()}
    return {layer: float(norm_T[0] / norm_T.median()) for layer, norm_T in norms.items()}


def test_a_norm_outlier_is_left_out_and_recorded(sunken: Checkpoint) -> None:
    assert min(_ratios(sunken).values()) > 6
    got = Runtime(tiny_scope(sunken.folder, norm_outlier=5.0), device="cpu", threads=1).features([TEXT, "a", TEXT])
    assert_features(got, sunken.documents([TEXT, "a", TEXT], norm_outlier=5.0))
    assert got.tokens_seen.tolist() == [2 * WINDOW + 3, 0, 2 * WINDOW + 3]
    for layer in range(LAYERS):
        assert got.layers[layer].outliers.tolist() == [2, 0, 2]
        assert dense(got, layer, "count").sum() == K * (2 * WINDOW + 1)


def test_an_outlier_at_one_layer_changes_no_other_layer(sunken: Checkpoint) -> None:
    ratios = _ratios(sunken)
    assert ratios[0] > 2 * ratios[3]
    limit = (ratios[0] * ratios[3]) ** 0.5
    masked, kept = (
        Runtime(tiny_scope(sunken.folder, layers=(0, 3), norm_outlier=norm_outlier), device="cpu", threads=1).features(
            [TEXT]
        )
        for norm_outlier in (limit, None)
    )
    assert_features(masked, sunken.documents([TEXT], norm_outlier=limit))
    assert masked.layers[0].outliers.tolist() == [2]
    assert masked.layers[3].outliers.tolist() == [0]
    assert masked.tokens_seen.tolist() == kept.tokens_seen.tolist()
    for column in ("ids", "max", "mean", "count"):
        np.testing.assert_array_equal(getattr(masked.layers[3], column), getattr(kept.layers[3], column))
    assert dense(masked, 0, "max").max() < 0.5 * dense(kept, 0, "max").max()


def test_without_a_limit_no_outlier_is_left_out(sunken: Checkpoint) -> None:
    got = Runtime(tiny_scope(sunken.folder, norm_outlier=None), device="cpu", threads=1).features([TEXT])
    assert_features(got, sunken.documents([TEXT], norm_outlier=None))
    assert all(features.outliers.tolist() == [0] for features in got.layers.values())
    assert dense(got, 0, "count").sum() == K * got.tokens_seen[0]


def test_the_masked_first_token_has_no_say_in_what_an_outlier_is(sunken: Checkpoint) -> None:
    """Of a huge, an ordinary and a huge token the median is huge; without the first one it is ordinary."""
    text = OUTLIER + " dog" + OUTLIER
    for mask_first, tokens_seen, outliers in ((True, 2, 1), (False, 3, 0)):
        scope = tiny_scope(sunken.folder, layers=(0,), norm_outlier=2.0, mask_first=mask_first)
        got = Runtime(scope, device="cpu", threads=1).features([text])
        assert got.tokens_seen.tolist() == [tokens_seen]
        assert got.layers[0].outliers.tolist() == [outliers]
        assert_features(got, sunken.documents([text], norm_outlier=2.0, mask_first=mask_first))


def test_neither_padding_nor_another_document_has_a_say_in_what_an_outlier_is(sunken: Checkpoint) -> None:
    texts = [*(_without(words(n)) for n in (5, 20, 60)), " the" + OUTLIER + " dog and", OUTLIER * 30, TEXT]
    runtime = Runtime(tiny_scope(sunken.folder, norm_outlier=5.0), device="cpu", threads=1)
    got = runtime.features(texts)
    assert_features(got, sunken.documents(texts, norm_outlier=5.0))
    assert got.layers[0].outliers.tolist() == [0, 0, 0, 1, 0, 2]
