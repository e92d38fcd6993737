"""The truncated backbone: a Qwen3-family trunk up to the deepest hooked layer, without head, vision or MTP weights."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from assay.schemas.errors import AssayError

# The text model of each family: loads from a ForCausalLM checkpoint and from a multimodal wrapper's alike.
_TRUNKS = {
    "qwen3": "Qwen3Model",
    "qwen3_moe": "Qwen3MoeModel",
    "qwen3_5": "Qwen3_5TextModel",
    "qwen3_5_text": "Qwen3_5TextModel",
    "qwen3_5_moe": "Qwen3_5MoeTextModel",
    "qwen3_5_moe_text": "Qwen3_5MoeTextModel",
}


class Backbone:
    """Gives the residual stream after chosen decoder layers (resid_post), as a hook on the whole model would."""

    def __init__(self, folder: Path, layers: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> None:
        """Reads only layers 0..max(layers) of the checkpoint in `folder`; AssayError if it isn't of a known family."""
        config = _read_config(folder)
        text = config.get_text_config()
        if max(layers) >= text.num_hidden_layers:
            raise AssayError(
                f"layer {max(layers)} asked for, but the backbone has {text.num_hidden_layers} (0-based)",
                where=str(folder),
            )
        trunk_class = getattr(transformers, _TRUNKS[config.model_type])
        with _quiet_loading():
            try:
                model, info = trunk_class.from_pretrained(
                    folder,
                    num_hidden_layers=max(layers) + 1,
                    dtype=dtype,
                    output_loading_info=True,
                    local_files_only=True,
                    use_safetensors=True,
                )
            except (OSError, RuntimeError, ValueError, KeyError) as e:
                raise AssayError(f"can't load the backbone: {e}", where=str(folder)) from e
        missing = [key for key in info["missing_keys"] if not key.startswith("norm.")]
        if missing:
            raise AssayError(f"the checkpoint lacks {len(missing)} tensors, e.g. {missing[0]}", where=str(folder))
        # The trunk's own final norm would be applied to the truncated output; nobody reads it.
        model.norm = nn.Identity()
        self.model: nn.Module = model.eval().requires_grad_(False).to(device)
        self.layers = tuple(layers)
        self.d_model: int = text.hidden_size
        self.vocab_size: int = text.vocab_size
        self.device = device

    @torch.inference_mode()
    def residuals(self, ids_BT: Tensor) -> dict[int, Tensor]:
        """Layer -> hidden_BTD for right-padded token ids.

        No attention mask is passed: the trunk is causal, so padding on the right can't reach a real token, and the
        caller drops the padded positions.
        """
        hidden: dict[int, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(self._hook(layer, hidden))
            self.model(input_ids=ids_BT.to(self.device), use_cache=False)
        return hidden

    @contextlib.contextmanager
    def _hook(self, layer: int, into: dict[int, Tensor]) -> Iterator[None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            into[layer] = output[0] if isinstance(output, tuple) else output

        layers: Any = self.model.layers
        handle = layers[layer].register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()


def _read_config(folder: Path) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as e:
        raise AssayError(f"can't read the backbone's config.json: {e}", where=str(folder)) from e
    if config.model_type not in _TRUNKS:
        raise AssayError(
            f"backbone family {config.model_type!r} is not supported",
            where=str(folder),
            hint=f"supported model_type: {', '.join(_TRUNKS)}",
        )
    return config


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Silences the report of unused tensors: leaving out deeper layers and the head is the intention."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
