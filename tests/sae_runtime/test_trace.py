"""Where a feature fires in a text: aligned to code points, and in agreement with the document's features."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from assay.sae_runtime.runtime import Runtime
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import ELEVEN_BITS, WINDOW, tiny_scope, words

TEXTS = {
    "ascii": words(2 * WINDOW + 7),
    "emoji": "🙂 the quick 👩🏽‍🚀 brown fox🙃" * 4,
    "combining marks": "cafe\u0301 na\u0308ive u\u0308ber the fox " * 4,
    "right to left": "שלום the quick fox مرحبا lazy dog 漢字 " * 3,
    "control characters": "the\x00quick\x1bfox\r\n\tdog \u200b\u2028\ufeff the cat" * 4,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_firings_are_the_features_of_the_document(checkpoint: Checkpoint, text: str) -> None:
    layers = (1, 3)
    runtime = Runtime(tiny_scope(checkpoint.folder, layers=layers), device="cpu", threads=1)
    got = runtime.features([text])
    firings = runtime.trace(text, {layer: range(1024) for layer in layers})
    assert firings == sorted(firings, key=lambda f: (f.start, f.end))
    for layer in layers:
        acts = defaultdict(list)
        for firing in firings:
            if firing.layer == layer:
                acts[firing.feature].append(firing.act)
        features = got.layers[layer]
        assert features.ids.tolist() == sorted(acts)
        assert features.count.tolist() == [len(acts[f]) for f in sorted(acts)]
        # float16 has the 11 bits that are stored.
        maxima = np.array([max(acts[f]) for f in sorted(acts)], np.float32)
        np.testing.assert_array_equal(features.max, maxima.astype(np.float16).astype(np.float32))
        means = [sum(acts[f]) / got.tokens_seen[0] for f in sorted(acts)]
        np.testing.assert_allclose(features.mean, means, rtol=ELEVEN_BITS * 1.01)


def test_in_ascii_each_firing_spans_the_text_of_its_token(qwen3: Checkpoint) -> None:
    text = TEXTS["ascii"]
    runtime = Runtime(tiny_scope(qwen3.folder, mask_first=False), device="cpu", threads=1)
    firings = runtime.trace(text, {1: range(1024)})
    spans = sorted({(f.start, f.end) for f in firings})
    assert "".join(text[start:end] for start, end in spans) == text
    reference = qwen3.reference()
    tokens = [reference.tokenizer.decode([token]) for token in reference.tokenizer.encode(text)]
    assert [text[start:end] for start, end in spans] == tokens


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_spans_are_code_points_of_the_text(qwen3: Checkpoint, text: str) -> None:
    """Each character lies in some token, and the spans of the tokens follow each other in the text."""
    runtime = Runtime(tiny_scope(qwen3.folder, mask_first=False), device="cpu", threads=1)
    spans = sorted({(f.start, f.end) for f in runtime.trace(text, {1: range(1024)})})
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert {at for start, end in spans for at in range(start, end)} == set(range(len(text)))
    assert all(start <= next_start for (start, _), (next_start, _) in pairwise(spans))


@pytest.mark.parametrize("before", ["", "🙂", "🙂🙂", "e\u0301", "שלום ", "漢字\x00", "👩🏽‍🚀"])
def test_a_word_is_found_where_it_stands_whatever_comes_before_it(qwen3: Checkpoint, before: str) -> None:
    text = f"{before} the quick brown fox"
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    spans = {(f.start, f.end) for f in runtime.trace(text, {0: range(1024)})}
    at = text.index(" brown")
    assert (at, at + len(" brown")) in spans


def test_only_the_wanted_features_are_traced(qwen3: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    every = runtime.trace(TEXTS["emoji"], {layer: range(1024) for layer in range(4)})
    wanted = {1: {every[0].feature, 5, 1023}, 2: set(range(100))}
    some = runtime.trace(TEXTS["emoji"], wanted)
    assert some == [f for f in every if f.feature in wanted.get(f.layer, ())]
    assert runtime.trace(TEXTS["emoji"], {}) == []
    assert runtime.trace(TEXTS["emoji"], {1: []}) == []
    assert runtime.trace("", {1: range(1024)}) == []
    assert runtime.trace("a", {1: range(1024)}) == [], "one token is the masked first one"


def test_masked_tokens_do_not_fire(qwen3: Checkpoint) -> None:
    text = TEXTS["ascii"]
    first = text.index(" ", 1)
    for mask_first in (True, False):
        runtime = Runtime(tiny_scope(qwen3.folder, mask_first=mask_first), device="cpu", threads=1)
        fired = any(f.start < first for f in runtime.trace(text, {1: range(1024)}))
        assert fired is not mask_first
    runtime = Runtime(tiny_scope(qwen3.folder, max_tokens=10), device="cpu", threads=1)
    end = max(f.end for f in runtime.trace(text, {1: range(1024)}))
    assert len(text[:end].split()) == 10
