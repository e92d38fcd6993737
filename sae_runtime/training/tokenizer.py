"""A byte-level BPE tokenizer that round-trips any text, in the files `AutoTokenizer` reads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .common import EOS, Document, log, read_documents, read_json, write_json


def train_tokenizer(
    documents: list[Document], weights: dict[str, float], vocab_size: int, sample_chars: int, seed: int
) -> Tokenizer:
    """Trains a byte-level BPE on about `sample_chars` characters drawn in the proportions of pretraining.

    No normaliser and a full 256-byte alphabet: decode(encode(text)) == text for every Unicode string.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
    )
    tokenizer.train_from_iterator(_sample(documents, weights, sample_chars, seed), trainer)
    return tokenizer


def _sample(documents: list[Document], weights: dict[str, float], sample_chars: int, seed: int) -> Iterator[str]:
    """Yields texts in random order, a document of the heaviest source always, one of weight w less often."""
    rng = random.Random(seed)  # noqa: S311 - a fixed sample, no secret
    order = list(range(len(documents)))
    rng.shuffle(order)
    heaviest = max(weights.values())
    room = sample_chars
    for index in order:
        text = documents[index]["text"]
        if room < 0:
            return
        if rng.random() < weights[documents[index]["source"]] / heaviest:
            room -= len(text)
            yield text


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> PreTrainedTokenizerFast:
    """Writes tokenizer.json and tokenizer_config.json: eos and pad are `<|endoftext|>`, there is no BOS."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    fast.save_pretrained(folder)
    config_path = folder / "tokenizer_config.json"
    # The class name that older releases know too; newer ones write the name of their own base class.
    write_json(config_path, {**read_json(config_path), "tokenizer_class": "PreTrainedTokenizerFast"})
    return fast


def tokenize_documents(work: Path, folder: Path) -> None:
    """Leaves the training text as `tokens/train.npz` and its sources' names as `tokens/sources.json`.

    ids (T,) uint16 with an end-of-text token after each document; offsets (N+1,) int64; source (N,) index
    into the names.
    """
    names_path = work / "tokens" / "sources.json"
    if names_path.exists():
        return
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    eos_id = tokenizer.token_to_id(EOS)
    documents = list(read_documents(work / "text" / "train.jsonl.gz"))
    names: dict[str, int] = {}
    pieces: list[np.ndarray] = []
    for start in range(0, len(documents), 2_000):
        texts = [document["text"] for document in documents[start : start + 2_000]]
        for encoding in tokenizer.encode_batch(texts):
            pieces.append(np.asarray([*encoding.ids, eos_id], dtype=np.uint16))
    names_path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        work / "tokens" / "train.npz",
        ids=np.concatenate(pieces),
        offsets=np.cumsum([0, *(len(piece) for piece in pieces)]),
        source=np.asarray([names.setdefault(document["source"], len(names)) for document in documents]),
    )
    log("tokenizer: %d documents are %d tokens", len(documents), sum(len(piece) for piece in pieces))
    write_json(names_path, list(names))
