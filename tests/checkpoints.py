"""Small random checkpoints with each family's real config and published key layout, saved as a user would find them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

VOCAB = 512
D_MODEL = 64
LAYERS = 4

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    # So large that what a layer adds outweighs the embedding; with the usual 0.02 no layer would matter to a test.
    "initializer_range": 0.15,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}

FAMILIES = ("qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe")


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer that knows every byte and one special token, and composes characters as Qwen's do."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and the cat " * 20], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )


def causal_lm(family: str) -> transformers.PreTrainedModel:
    """A randomly initialised model of the family, in the class whose checkpoints are published."""
    torch.manual_seed(0)
    if family == "qwen3":
        return _lively(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_COMMON)))
    if family == "qwen3_moe":
        return _lively(transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**_COMMON, **_MOE)))
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": D_MODEL}
    if family == "qwen3_5":
        config = transformers.Qwen3_5Config(text_config={**_COMMON, **_LINEAR}, vision_config=vision)
        return _lively(transformers.Qwen3_5ForConditionalGeneration(config))
    config = transformers.Qwen3_5MoeConfig(
        text_config={**_COMMON, **_LINEAR, **_MOE, "shared_expert_intermediate_size": 48}, vision_config=vision
    )
    return _lively(transformers.Qwen3_5MoeForConditionalGeneration(config))


@torch.no_grad()
def _lively(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Norms differ from 1, and linear attention remembers hundreds of tokens, where it starts out with about one."""
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.uniform_(0.003, 0.3).log_()
        elif parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def save_checkpoint(
    folder: Path, family: str, *, sharded: bool = False, dtype: torch.dtype = torch.float32
) -> transformers.PreTrainedModel:
    """Writes a checkpoint with its tokenizer to `folder`, in one safetensors file or several."""
    model = causal_lm(family).to(dtype)
    save_model(folder, model, sharded=sharded)
    return model


def save_model(folder: Path, model: transformers.PreTrainedModel, *, sharded: bool = False) -> None:
    """Writes `model` and a tokenizer as published: experts and MTP layers under the keys of their family.

    Sharded, each decoder layer has a file of its own, and so have embedding, head, vision and MTP.
    """
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_tokenizer(folder)
    tensors = published_tensors(model)
    if not sharded:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    parts = sorted({_part(key) for key in tensors})
    names = {part: f"model-{n:05}-of-{len(parts):05}.safetensors" for n, part in enumerate(parts, 1)}
    for part, name in names.items():
        save_file({key: t for key, t in tensors.items() if _part(key) == part}, folder / name, {"format": "pt"})
    weight_map = {key: names[_part(key)] for key in sorted(tensors)}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def published_tensors(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's tensors under the keys of the published files.

    Qwen3-MoE's files hold each expert's projections apart, Qwen3.5-MoE's hold them fused; both Qwen3.5 families bring
    an MTP layer, whose experts lie apart.
    """
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if model.config.model_type == "qwen3_moe":
        return _experts_apart(tensors)
    if not model.config.model_type.startswith("qwen3_5"):
        return tensors
    attention = f"model.language_model.layers.{LAYERS - 1}."
    layer = {f"mtp.layers.0.{key.removeprefix(attention)}": t for key, t in tensors.items() if attention in key}
    norms = ("mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight")
    mtp = {**_experts_apart(layer), "mtp.fc.weight": torch.randn(D_MODEL, 2 * D_MODEL)}
    mtp |= {name: torch.ones(D_MODEL) for name in norms}
    return tensors | {key: tensor.clone() for key, tensor in mtp.items()}


def _experts_apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    apart = {}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        if not path.endswith(".experts"):
            apart[key] = tensor
            continue
        for n, expert in enumerate(tensor):
            if name == "down_proj":
                apart[f"{path}.{n}.down_proj.weight"] = expert.clone()
            else:
                gate, up = expert.chunk(2)
                apart[f"{path}.{n}.gate_proj.weight"] = gate.clone()
                apart[f"{path}.{n}.up_proj.weight"] = up.clone()
    return apart


def _part(key: str) -> str:
    """The part of a model that a tensor belongs to; embedding, then layers in their order, then the rest."""
    if key.startswith("mtp."):
        return "mtp"
    if "visual" in key:
        return "visual"
    layer = re.search(r"layers\.(\d+)\.", key)
    return f"layer {layer[1]}" if layer else "embedding" if "embed_tokens" in key else "norm and head"


def save_saes(
    folder: Path, layers: Iterable[int], *, d_sae: int = 1024, k: int = 16
) -> dict[int, dict[str, torch.Tensor]]:
    """Random SAEs in Qwen-Scope's layout; returns what was written."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    saes = {}
    for layer in layers:
        W_enc = torch.randn(d_sae, D_MODEL, generator=generator)
        saes[layer] = {
            "W_enc": W_enc,
            "W_dec": W_enc.T.contiguous(),
            "b_enc": 2 * torch.randn(d_sae, generator=generator),
            "b_dec": torch.randn(D_MODEL, generator=generator),
        }
        torch.save(saes[layer], folder / f"layer{layer}.sae.pt")
    (folder / "config.json").write_text(json.dumps({"k": k, "hook_point": "resid_post"}))
    return saes
