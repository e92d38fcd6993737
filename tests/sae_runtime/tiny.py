"""A scope on a tiny checkpoint, texts for it, and the comparison of its features with the reference."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.sae_runtime.pooling import SparseFeatures
from assay.sae_runtime.runtime import ChunkFeatures
from assay.schemas.scope import Scope
from tests.sae_runtime.reference import OPEN, Document, LayerFeatures

K = 16
WINDOW, OVERLAP = 64, 16
ELEVEN_BITS = 2.0**-11
"""largest relative error of a value rounded to 11 significant bits"""
ROUNDING = 2e-5
"""relative difference between two ways to the same float32 activation"""
WORDS = (" the", " quick", " brown", " fox", " jumps", " over", " lazy", " dog", " and", " cat")
"""one token each"""

TEXTS = (
    "the quick brown fox",
    "a",
    "ab",
    "",
    "the lazy dog " * 60,
    "naïve café 漢字 🙂🙃 שלום <|endoftext|> \x00 end",
    "jumps over the cat and the dog " * 9,
)


def words(tokens: int, seed: int = 0) -> str:
    """A text of exactly `tokens` tokens."""
    draw = random.Random(f"{seed} {tokens}")
    return "".join(draw.choice(WORDS) for _ in range(tokens))


def tiny_scope(folder: Path, **changes: Any) -> Scope:
    """A scope over folder/model and folder/saes that stores every feature."""
    values: dict[str, Any] = {
        "name": "test",
        "backbone": str(folder / "model"),
        "sae": str(folder / "saes"),
        "layers": (0, 1, 2, 3),
        "window": WINDOW,
        "overlap": OVERLAP,
        "norm_outlier": None,
        "top_m": 100_000,
        "dtype": "float32",
        "exact": True,
        "batch_tokens": 512,
    }
    return Scope(**(values | changes))


def assert_features(got: ChunkFeatures, want: Sequence[Document]) -> None:
    """Fails with the first few things that rounding can't explain."""
    problems = differences(got, want)
    assert not problems, "\n".join([f"{len(problems)} differences, the first of which are:", *problems[:10]])


def differences(got: ChunkFeatures, want: Sequence[Document]) -> list[str]:
    """What in `got` rounding can't explain, in words; empty for the same features. `got` must not be pruned."""
    if got.n_tokens.tolist() != [document.n_tokens for document in want]:
        return [f"n_tokens are {got.n_tokens.tolist()}"]
    if got.tokens_seen.tolist() != [document.tokens_seen for document in want]:
        return [f"tokens_seen are {got.tokens_seen.tolist()}"]
    return [
        f"document {d}, layer {layer}: {problem}"
        for d, document in enumerate(want)
        for layer, features in got.layers.items()
        for problem in _layer_differences(features, d, document.layers[layer], document.tokens_seen)
    ]


def _layer_differences(got: SparseFeatures, d: int, want: LayerFeatures, tokens_seen: int) -> list[str]:
    mine = slice(got.offsets[d], got.offsets[d + 1])
    if (np.diff(got.ids[mine]) <= 0).any():
        return ["ids aren't ascending"]
    if int(got.outliers[d]) != want.outliers:
        return [f"{got.outliers[d]} outliers instead of {want.outliers}"]
    # An activation near 0 is the difference of larger numbers, so that its error follows the largest ones.
    error = OPEN * want.largest
    counted = max(1, tokens_seen - want.outliers)
    mean_error_F = error * want.count_F[1].numpy() / counted
    columns = [
        ("count", got.count, want.count_F, 0.0, 0.0),
        ("max", got.max, want.max_F, ELEVEN_BITS + ROUNDING, error),
        ("mean", got.mean, [sum_F / counted for sum_F in want.sum_F], ELEVEN_BITS + ROUNDING, mean_error_F),
    ]
    problems = []
    for name, stored, (least_F, most_F), relative, absolute in columns:
        dense = np.zeros(len(least_F))
        dense[got.ids[mine]] = stored[mine]
        least, most = least_F.numpy() * (1 - relative) - absolute, most_F.numpy() * (1 + relative) + absolute
        problems += [
            f"{name} of feature {f} is {dense[f]:g}, not {least_F[f]:g} to {most_F[f]:g}"
            for f in ((dense < least) | (dense > most)).nonzero()[0]
        ]
    return problems
