"""Small random checkpoints with each family's real config and key layout, saved as a user would find them."""

import json
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

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
    """A byte-level BPE tokenizer that knows every byte and one special token."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
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
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_COMMON))
    if family == "qwen3_moe":
        return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**_COMMON, **_MOE))
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": D_MODEL}
    if family == "qwen3_5":
        config = transformers.Qwen3_5Config(text_config={**_COMMON, **_LINEAR}, vision_config=vision)
        return transformers.Qwen3_5ForConditionalGeneration(config)
    config = transformers.Qwen3_5MoeConfig(
        text_config={**_COMMON, **_LINEAR, **_MOE, "shared_expert_intermediate_size": 48}, vision_config=vision
    )
    return transformers.Qwen3_5MoeForConditionalGeneration(config)


def save_checkpoint(folder: Path, family: str, *, sharded: bool = False) -> transformers.PreTrainedModel:
    """Writes a checkpoint with its tokenizer to `folder`, in one safetensors file or several."""
    folder.mkdir(parents=True)
    model = causal_lm(family).eval()
    model.save_pretrained(folder, max_shard_size="100KB" if sharded else "1GB")
    save_tokenizer(folder)
    return model


def save_saes(folder: Path, layers: list[int], *, d_sae: int = 1024, k: int = 16) -> dict[int, dict[str, torch.Tensor]]:
    """Random SAEs in Qwen-Scope's layout; returns what was written."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    saes = {}
    for layer in layers:
        W_enc = torch.randn(d_sae, D_MODEL, generator=generator)
        saes[layer] = {
            "W_enc": W_enc,
            "W_dec": W_enc.T.contiguous(),
            "b_enc": torch.randn(d_sae, generator=generator) * 0.1,
            "b_dec": torch.randn(D_MODEL, generator=generator),
        }
        torch.save(saes[layer], folder / f"layer{layer}.sae.pt")
    (folder / "config.json").write_text(json.dumps({"k": k, "hook_point": "resid_post"}))
    return saes
