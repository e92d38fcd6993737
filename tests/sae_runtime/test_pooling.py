"""From token activations to document features: max, mean and count, in any order and any number of parts."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from assay.sae_runtime import pooling
from assay.sae_runtime.pooling import DocumentPooler, SparseFeatures, round_significand
from assay.sae_runtime.runtime import Runtime
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import assert_features, tiny_scope, words

TEXTS = [words(n, seed=3) for n in (1, 2, 9, 40, 90, 130)]
D_SAE, DOCUMENTS = 50, 6
Column = tuple[Tensor, Tensor, Tensor]


def activations(entries: int, seed: int = 0) -> Column:
    """(document_A, ids_A, acts_A) of random documents and features."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, DOCUMENTS, (entries,), generator=generator),
        torch.randint(0, D_SAE, (entries,), generator=generator),
        torch.rand(entries, generator=generator) + 0.1,
    )


def pool(parts: Sequence[Column], *, top_m: int = D_SAE, watched: Sequence[int] = ()) -> SparseFeatures:
    pooler = DocumentPooler(D_SAE)
    for part in parts:
        pooler.add(*part)
    seen = np.full(DOCUMENTS, 10)
    return pooler.finish(seen, np.zeros(DOCUMENTS, np.int64), top_m, watched)


def assert_same(a: SparseFeatures, b: SparseFeatures) -> None:
    for name in ("offsets", "ids", "max", "mean", "count", "floor", "outliers"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def by_document(features: SparseFeatures) -> list[dict[int, float]]:
    """Each document's feature -> max."""
    return [
        dict(zip(features.ids[start:end].tolist(), features.max[start:end].tolist(), strict=True))
        for start, end in zip(features.offsets[:-1], features.offsets[1:], strict=True)
    ]


def test_max_mean_and_count_are_those_of_each_document_and_feature() -> None:
    columns = activations(2000)
    got = pool([columns])
    entry = 0
    for document in range(DOCUMENTS):
        for feature in range(D_SAE):
            acts = columns[2][(columns[0] == document) & (columns[1] == feature)]
            if len(acts) == 0:
                continue
            assert got.offsets[document] <= entry < got.offsets[document + 1]
            assert got.ids[entry] == feature
            assert got.count[entry] == len(acts)
            assert got.max[entry] == pytest.approx(float(acts.max()), rel=2.0**-11)
            assert got.mean[entry] == pytest.approx(float(acts.sum()) / 10, rel=2.0**-11)
            entry += 1
    assert entry == len(got.ids) == got.offsets[-1]
    assert got.floor.tolist() == [0] * DOCUMENTS


def test_parts_of_any_size_give_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = activations(3000)
    parts = [tuple(column[start : start + 7] for column in whole) for start in range(0, 3000, 7)]
    want = pool([whole])
    assert_same(pool(parts), want)
    monkeypatch.setattr(pooling, "_COMPACT_AT", 50)
    assert_same(pool(parts), want)


def test_pruning_keeps_the_largest_by_max_and_lowest_ids_among_equals() -> None:
    documents, ids = torch.zeros(6, dtype=torch.long), torch.tensor([7, 3, 9, 1, 4, 8])
    acts = torch.tensor([2.0, 5.0, 2.0, 2.0, 1.0, 3.0])
    got = pool([(documents, ids, acts)], top_m=3)
    assert by_document(got)[0] == {1: 2.0, 3: 5.0, 8: 3.0}
    assert got.floor.tolist() == [2.0, 0, 0, 0, 0, 0]
    watched = pool([(documents, ids, acts)], top_m=3, watched=[4, 3, 30])
    assert by_document(watched)[0] == {1: 2.0, 3: 5.0, 4: 1.0, 8: 3.0}
    assert watched.floor[0] == 2.0


@pytest.mark.parametrize("value", [1.0, 0.1, 3.14159, 1234.5, 59000.0, 7e-5])
def test_values_are_kept_to_the_11_bits_of_float16(value: float) -> None:
    draw = random.Random(int(value * 1000))
    values = np.array([value * draw.uniform(0.9, 1.1) for _ in range(1000)], np.float32)
    np.testing.assert_array_equal(round_significand(values), values.astype(np.float16).astype(np.float32))


def test_values_beyond_float16_keep_their_size() -> None:
    values = np.array([0.0, 1e-30, 1e6, 3e38], np.float32)
    np.testing.assert_allclose(round_significand(values), values, rtol=2.0**-11)


# In the runtime


def test_several_layers_in_one_pass_give_what_each_gives_alone(checkpoint: Checkpoint) -> None:
    together = Runtime(tiny_scope(checkpoint.folder, layers=(0, 1, 3)), device="cpu", threads=1).features(TEXTS)
    for layer in (0, 1, 3):
        scope = tiny_scope(checkpoint.folder, layers=(layer,))
        alone = Runtime(scope, device="cpu", threads=1).features(TEXTS)
        assert_same(alone.layers[layer], together.layers[layer])


def test_what_is_pruned_lies_under_the_floor_and_what_is_kept_above(checkpoint: Checkpoint) -> None:
    layers = (1, 3)
    full = Runtime(tiny_scope(checkpoint.folder, layers=layers), device="cpu", threads=1).features(TEXTS)
    assert_features(full, checkpoint.documents(TEXTS))
    weakest = {layer: int(f.ids[f.max.argmin()]) for layer, f in full.layers.items()}
    watched = [*weakest.items(), (1, 1023)]
    scope = tiny_scope(checkpoint.folder, layers=layers, top_m=20)
    pruned = Runtime(scope, device="cpu", threads=1, watched=watched).features(TEXTS)
    assert pruned.n_tokens.tolist() == full.n_tokens.tolist()
    was_pruned = 0
    for layer in layers:
        floor = pruned.layers[layer].floor.tolist()
        of_layer = {feature for at, feature in watched if at == layer}
        for d, (every, kept) in enumerate(
            zip(by_document(full.layers[layer]), by_document(pruned.layers[layer]), strict=True)
        ):
            left_out = every.keys() - kept.keys()
            was_pruned += len(left_out)
            assert kept.items() <= every.items()
            assert len(kept.keys() - of_layer) <= 20
            assert every.keys() & of_layer <= kept.keys()
            assert all(every[feature] <= floor[d] for feature in left_out)
            assert all(kept[feature] >= floor[d] for feature in kept.keys() - of_layer)
            assert floor[d] == max((every[feature] for feature in left_out), default=0)
    assert was_pruned > 500
