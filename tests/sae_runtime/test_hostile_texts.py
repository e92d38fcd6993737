"""Texts that break naive pipelines: each gives the features of its characters, and spoils no other text's."""

from collections.abc import Sequence

import numpy as np
import pytest

from assay.sae_runtime.runtime import ChunkFeatures, Runtime
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import assert_features, tiny_scope

TEXTS = {
    "empty": "",
    "one space": " ",
    "spaces and line ends": " \t\r\n\u2028\u00a0 \n",
    "emoji": "🙂🙃👩🏽‍🚀🏳️‍🌈",
    "arabic": "مرحبا بالعالم، كيف حالك؟",
    "hebrew": "שָׁלוֹם עוֹלָם",
    "direction marks": "\u202eabc\u202c \u2066שלום\u2069",
    "chinese": "漢字仮名交じり文",
    "stacked marks": "Z" + "\u0301\u0327\u0335" * 30,
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "one NUL": "\x00",
    "byte order mark": "\ufeffthe fox",
    "noncharacters": "\ufffe\uffff\U0010ffff\ufdd0",
    "private use": "\ue000\U000f0000",
    "replacement": "\ufffd\ufffd",
}
SPECIAL = "<|endoftext|>"


@pytest.fixture
def runtime(qwen3: Checkpoint) -> Runtime:
    return Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)


def same(a: ChunkFeatures, b: ChunkFeatures) -> bool:
    return a.n_tokens.tolist() == b.n_tokens.tolist() and all(
        np.array_equal(getattr(features, name), getattr(b.layers[layer], name))
        for layer, features in a.layers.items()
        for name in ("offsets", "ids", "max", "mean", "count")
    )


def test_every_text_gives_the_features_of_the_reference(checkpoint: Checkpoint) -> None:
    texts = [*TEXTS.values(), SPECIAL, f"the{SPECIAL}fox"]
    runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
    got = runtime.features(texts)
    assert_features(got, checkpoint.documents(texts))
    # Every byte is a token to this tokenizer, so none may get lost on the way.
    assert all(seen == max(0, n - 1) for n, seen in zip(got.n_tokens, got.tokens_seen, strict=True))
    assert got.n_tokens[0] == 0
    assert got.n_tokens[list(TEXTS).index("emoji")] == len(TEXTS["emoji"].encode())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_text_can_be_traced(runtime: Runtime, text: str) -> None:
    firings = runtime.trace(text, {1: range(1024)})
    assert len(firings) == runtime.features([text]).layers[1].count.sum()


def test_a_special_tokens_name_in_a_text_is_ordinary_text(runtime: Runtime) -> None:
    special, broken = runtime.features([f"the fox{SPECIAL}"]), runtime.features(["the fox<|end of text|>"])
    assert special.n_tokens[0] > 10, "the letters of the name, not one token"
    assert broken.n_tokens[0] > 10
    spans = {(f.start, f.end) for f in runtime.trace(f"the fox{SPECIAL}", {1: range(1024)})}
    assert (len("the fox"), len(f"the fox{SPECIAL}")) not in spans


LONE = ("\ud800", "\udfff", "a\ud83dz", "\udc00\ud800", "the fox \udead")


def as_replaced(text: str) -> str:
    """Each lone surrogate as U+FFFD, which is what it becomes wherever text is repaired."""
    return "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in text)


@pytest.mark.parametrize("text", LONE, ids=ascii)
def test_a_lone_surrogate_is_read_as_the_replacement_character(runtime: Runtime, text: str) -> None:
    assert same(runtime.features([text]), runtime.features([as_replaced(text)]))
    assert runtime.trace(text, {1: range(1024)}) == runtime.trace(as_replaced(text), {1: range(1024)})


def test_a_lone_surrogate_spoils_no_other_text_of_its_chunk(runtime: Runtime) -> None:
    texts = ["the quick brown fox", *LONE, "over the lazy dog"]
    assert same(runtime.features(texts), runtime.features([as_replaced(text) for text in texts]))
    streamed = list(runtime.stream([texts, ["the fox"]]))
    assert [len(got.n_tokens) for got in streamed] == [len(texts), 1]


def test_hostile_texts_change_nothing_for_their_neighbours(checkpoint: Checkpoint) -> None:
    good = ["the quick brown fox", "jumps over the lazy dog and the cat " * 5]

    def mixed(hostile: Sequence[str]) -> list[str]:
        return [good[0], *hostile, good[1]]

    runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
    texts = mixed([*TEXTS.values(), "🙂" * 500, SPECIAL * 3])
    assert_features(runtime.features(texts), checkpoint.documents(texts))


@pytest.mark.parametrize("character", ["a", " ", "\x00", "\u0301"], ids=["a", "space", "NUL", "combining"])
def test_a_megabyte_of_one_character_is_read_up_to_the_limit(qwen3: Checkpoint, character: str) -> None:
    text = character * (2**20 // len(character.encode()))
    runtime = Runtime(tiny_scope(qwen3.folder, layers=(1,), max_tokens=2000), device="cpu", threads=1)
    got = runtime.features([text, "the fox"])
    assert got.n_tokens.tolist() == [2**20, 2]
    assert got.tokens_seen.tolist() == [1999, 1]
    assert got.layers[1].count[: got.layers[1].offsets[1]].sum() == 1999 * 16
