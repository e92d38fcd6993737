"""A random Qwen3 checkpoint and Qwen-Scope SAE files on disk, as a user would have downloaded them."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from benchmarks.documents import save_tokenizer
from benchmarks.shapes import Shape

_TOKENIZER_VOCAB = 8192
_ACTIVE_SHIFT = 1.5
_VERSION = 1  # of what is written: another one makes folders that are there already be written again


def write_backbone(folder: Path, shape: Shape, *, dtype: str, device: str) -> Path:
    """The folder of a ForCausalLM checkpoint with its tokenizer; written only if it isn't there.

    Embeddings have unit variance and the other matrices variance 1/d, so that layers change the residual as much as
    a trained model's do. The weights are drawn on `device`.
    """
    where = folder / f"{shape.name}-{shape.hidden}x{shape.depth}-{dtype}"
    recipe = {**asdict(shape), "dtype": dtype, "version": _VERSION}
    if _is_done(where, recipe):
        return where
    where.mkdir(parents=True, exist_ok=True)
    save_tokenizer(where, min(shape.vocab, _TOKENIZER_VOCAB))
    config = transformers.Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=40_960,
        tie_word_embeddings=shape.tied,
        initializer_range=shape.hidden**-0.5,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    torch.nn.init.normal_(model.model.embed_tokens.weight)
    model.save_pretrained(where)
    return _done(where, recipe)


def write_saes(
    folder: Path, shape: Shape, d_sae: int, layers: tuple[int, ...], *, device: str, distinct: int | None
) -> Path:
    """The folder of layer{n}.sae.pt files in fp32 and config.json; a layer that is there already is left.

    Biases are shifted so that about one pre-activation in fifteen is positive, not half of them. With `distinct`,
    only that many files are drawn and the others link to them: for sizes that would fill a disk.
    """
    where = folder / f"saes-{shape.hidden}-{d_sae}-k{shape.k}-v{_VERSION}"
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json.dumps({"k": shape.k, "hook_point": "resid_post"}), "utf-8")
    for at, layer in enumerate(layers):
        path = where / f"layer{layer}.sae.pt"
        if path.exists():
            continue
        if distinct is not None and at >= distinct:
            path.symlink_to(f"layer{layers[at % distinct]}.sae.pt")
            continue
        generator = torch.Generator(device).manual_seed(1 + layer)
        W_enc_FD = torch.randn(d_sae, shape.hidden, generator=generator, device=device) / shape.hidden**0.5
        b_enc_F = torch.randn(d_sae, generator=generator, device=device) * 0.1 - _ACTIVE_SHIFT
        state = {
            "W_enc": W_enc_FD.cpu(),
            "W_dec": W_enc_FD.T.contiguous().cpu(),
            "b_enc": b_enc_F.cpu(),
            "b_dec": torch.randn(shape.hidden, generator=generator, device=device).cpu(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(path)
    return where


def _is_done(folder: Path, recipe: dict[str, object]) -> bool:
    marker = folder / "recipe.json"
    return marker.is_file() and json.loads(marker.read_text("utf-8")) == json.loads(json.dumps(recipe))


def _done(folder: Path, recipe: dict[str, object]) -> Path:
    (folder / "recipe.json").write_text(json.dumps(recipe), "utf-8")
    return folder
