"""A document's features don't depend on what it is batched with, and a way of batching that leaks is found out."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from assay.sae_runtime.runtime import ChunkFeatures, Runtime
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import ELEVEN_BITS, OVERLAP, WINDOW, assert_features, differences, tiny_scope, words

LENGTHS = (*range(1, 9), 15, 16, 17, 31, 47, 48, 49, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW - OVERLAP, 200, 333)
TEXTS = tuple(words(n) for n in LENGTHS)


def chunks(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def assert_same_but_for_the_last_bit(a: ChunkFeatures, b: ChunkFeatures, *, of: int, at: int) -> None:
    """Document `of` in `a` and document `at` in `b` differ at most by how their values were rounded to 11 bits."""
    for layer, features in a.layers.items():
        others = b.layers[layer]
        mine, theirs = (slice(x.offsets[d], x.offsets[d + 1]) for x, d in ((features, of), (others, at)))
        assert features.ids[mine].tolist() == others.ids[theirs].tolist()
        assert features.count[mine].tolist() == others.count[theirs].tolist()
        np.testing.assert_allclose(features.max[mine], others.max[theirs], rtol=2 * ELEVEN_BITS)
        np.testing.assert_allclose(features.mean[mine], others.mean[theirs], rtol=2 * ELEVEN_BITS)


def tied(checkpoint: Checkpoint, text: str) -> bool:
    """True where rounding may decide over a feature of the document."""
    (document,) = checkpoint.documents([text])
    return any(features.ties for features in document.layers.values())


@pytest.mark.parametrize("batch_tokens", [1, 100, 512, 10**6])
def test_features_are_the_same_at_every_size_of_batch(checkpoint: Checkpoint, batch_tokens: int) -> None:
    runtime = Runtime(tiny_scope(checkpoint.folder, batch_tokens=batch_tokens), device="cpu", threads=1)
    got = runtime.features(TEXTS)
    assert got.n_tokens.tolist() == list(LENGTHS)
    assert_features(got, checkpoint.documents(TEXTS))


def test_a_document_alone_among_others_and_in_another_order_has_the_same_features(checkpoint: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
    together = runtime.features(TEXTS)
    order = random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    permuted = runtime.features([TEXTS[d] for d in order])
    assert_features(permuted, checkpoint.documents([TEXTS[d] for d in order]))
    untied = [d for d in range(len(TEXTS)) if not tied(checkpoint, TEXTS[d])]
    assert len(untied) > 0.7 * len(TEXTS)
    for d in range(len(TEXTS)):
        alone = runtime.features([TEXTS[d]])
        assert_features(alone, checkpoint.documents([TEXTS[d]]))
        if d in untied:
            assert_same_but_for_the_last_bit(alone, together, of=0, at=d)
            assert_same_but_for_the_last_bit(permuted, together, of=order.index(d), at=d)


def test_chunks_of_any_size_give_the_same_features(checkpoint: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
    for size in (1, 5, 100):
        for chunk, got in zip(chunks(TEXTS, size), runtime.stream(chunks(TEXTS, size)), strict=True):
            assert_features(got, checkpoint.documents(chunk))


def test_the_same_batch_gives_the_same_bits(checkpoint: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
    first, second = runtime.features(TEXTS), runtime.features(TEXTS)
    for layer, features in first.layers.items():
        for name in ("offsets", "ids", "max", "mean", "count", "floor"):
            np.testing.assert_array_equal(getattr(features, name), getattr(second.layers[layer], name))


def test_chunks_without_documents_or_without_tokens_give_no_features(qwen3: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    assert len(runtime.features([]).n_tokens) == 0
    for texts in ([""], ["", "a", ""]):  # one token is the masked first one
        got = runtime.features(texts)
        assert got.tokens_seen.tolist() == [0] * len(texts)
        assert got.layers[1].offsets.tolist() == [0] * (len(texts) + 1)
        assert got.layers[1].outliers.tolist() == [0] * len(texts)
    assert list(runtime.stream([])) == []
    assert [len(got.n_tokens) for got in runtime.stream([[], ["a"], []])] == [0, 1, 0]


def test_an_error_in_the_source_of_a_stream_reaches_its_reader(qwen3: Checkpoint) -> None:
    def broken() -> Iterator[Sequence[str]]:
        yield ["the fox"]
        raise OSError("the disk is gone")

    stream = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1).stream(broken())
    assert next(stream).n_tokens.tolist() == [2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


# What a leak looks like


@pytest.fixture
def packed() -> Callable[[Checkpoint], ChunkFeatures]:
    """Features of TEXTS from a runtime that packs each batch into one row, with position ids that start anew."""

    def features(checkpoint: Checkpoint) -> ChunkFeatures:
        runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
        forward = runtime.backbone.model.forward

        def leaky(input_ids: torch.Tensor, **settings: Any) -> Any:
            rows, length = input_ids.shape
            positions = torch.arange(length).repeat(rows)[None]
            return forward(input_ids=input_ids.reshape(1, -1), position_ids=positions, **settings)

        runtime.backbone.model.forward = leaky
        return runtime.features(TEXTS)

    return features


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_packing_by_position_ids_leaks_through_linear_attention_and_is_found_out(
    checkpoint_of: Callable[[str], Checkpoint], packed: Callable[[Checkpoint], ChunkFeatures], family: str
) -> None:
    checkpoint = checkpoint_of(family)
    got, want = packed(checkpoint), checkpoint.documents(TEXTS)
    with_wrong_counts = {p.split(",")[0] for p in differences(got, want) if ": count of" in p}
    assert len(with_wrong_counts) > 0.5 * len(TEXTS)
    wrong, right = np.concatenate([_means(got, want, d) for d in range(len(TEXTS))], axis=1)
    assert np.median(np.abs(wrong - right) / np.maximum(wrong, right)) > 100 * ELEVEN_BITS


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_the_same_packing_is_exact_without_linear_attention(
    checkpoint_of: Callable[[str], Checkpoint], packed: Callable[[Checkpoint], ChunkFeatures], family: str
) -> None:
    """So what the test above finds is the leak, and not the way it was made."""
    checkpoint = checkpoint_of(family)
    assert_features(packed(checkpoint), checkpoint.documents(TEXTS))


def _means(got: ChunkFeatures, want: Sequence[Any], d: int) -> Any:
    """(means got, means wanted) of the features of document d at layer 1 that are active in either."""
    features, document = got.layers[1], want[d]
    right_F = document.layers[1].sum_F[0].numpy() / max(1, document.tokens_seen)
    wrong_F = np.zeros(len(right_F))
    mine = slice(features.offsets[d], features.offsets[d + 1])
    wrong_F[features.ids[mine]] = features.mean[mine]
    active = (wrong_F > 0) | (right_F > 0)
    return np.stack([wrong_F[active], right_F[active]])
