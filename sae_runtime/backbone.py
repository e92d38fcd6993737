"""The truncated backbone: a Qwen3-family trunk up to the deepest hooked layer, without head, vision or MTP weights."""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from assay.schemas.errors import AssayError, printable

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

    def __init__(
        self, folder: Path, layers: Sequence[int], *, dtype: torch.dtype, device: torch.device, fuse: bool = False
    ) -> None:
        """Reads only layers 0..max(layers) of the checkpoint in `folder`; AssayError if it isn't of a known family.

        `fuse` compiles the decoder layers, one graph for all that are alike: it fuses norms, rotary embedding and
        gated MLPs, and takes up to a minute at the first batch.
        """
        config = read_config(folder)
        text = config.get_text_config()
        if max(layers) >= text.num_hidden_layers:
            raise AssayError(
                f"layer {max(layers)} asked for, but the backbone has {text.num_hidden_layers} (0-based)",
                where=str(folder),
            )
        trunk_class = getattr(transformers, _TRUNKS[config.model_type])
        with _quiet_loading(), _trunk_view(folder, max(layers)) as view:
            try:
                model, info = trunk_class.from_pretrained(
                    view,
                    num_hidden_layers=max(layers) + 1,
                    dtype=dtype,
                    output_loading_info=True,
                    local_files_only=True,
                    use_safetensors=True,
                )
            except Exception as e:
                raise AssayError(
                    f"can't load the backbone: {type(e).__name__}: {printable(e, 400)}",
                    where=str(folder),
                    hint="a damaged or incomplete download? fetch the checkpoint again",
                ) from e
        missing = [key for key in info["missing_keys"] if not key.startswith("norm.")]
        if missing:
            raise AssayError(f"the checkpoint lacks {len(missing)} tensors, e.g. {missing[0]}", where=str(folder))
        # The trunk's own final norm would be applied to the truncated output; nobody reads it.
        model.norm = nn.Identity()
        if fuse:
            for layer in model.layers:
                # The forward alone, so that hooks stay outside the graph.
                layer.forward = torch.compile(layer.forward, dynamic=True)
        self.model: nn.Module = model.eval().requires_grad_(False).to(device)
        self.layers = tuple(layers)
        self.d_model: int = text.hidden_size
        self.vocab_size: int = text.vocab_size
        self.device = device

    @torch.inference_mode()
    def run(self, ids_BT: Tensor, sink: Callable[[int, Tensor], None]) -> None:
        """Calls sink(layer, hidden_BTD) for each hooked layer as it is reached; no residual is kept after the call.

        No attention mask is passed: the trunk is causal, so padding on the right can't reach a real token, and the
        caller drops the padded positions.
        """
        with contextlib.ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(self._hook(layer, sink))
            self.model(input_ids=ids_BT.to(self.device), use_cache=False)

    def residuals(self, ids_BT: Tensor) -> dict[int, Tensor]:
        """Layer -> hidden_BTD for right-padded token ids."""
        hidden: dict[int, Tensor] = {}
        self.run(ids_BT, hidden.__setitem__)
        return hidden

    @contextlib.contextmanager
    def _hook(self, layer: int, sink: Callable[[int, Tensor], None]) -> Iterator[None]:
        def pass_on(_module: nn.Module, _inputs: Any, output: Any) -> None:
            sink(layer, output[0] if isinstance(output, tuple) else output)

        layers: Any = self.model.layers
        handle = layers[layer].register_forward_hook(pass_on)
        try:
            yield
        finally:
            handle.remove()


def trunk_shards(index: Path, deepest: int) -> dict[str, str]:
    """Tensor -> shard file, for the tensors of layers 0..deepest and the embedding in a *.safetensors.index.json."""
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        needed = {key: shard for key, shard in weight_map.items() if _in_trunk(key, deepest)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise AssayError("not a safetensors index", where=str(index), hint="fetch the checkpoint again") from e
    for shard in needed.values():
        if not (isinstance(shard, str) and re.fullmatch(r"[\w.-]+\.safetensors", shard)):
            raise AssayError(
                f"names {printable(shard)!r} as a shard",
                where=str(index),
                hint="expected *.safetensors beside it; fetch the checkpoint again",
            )
    return needed


def _in_trunk(key: str, deepest: int) -> bool:
    if key.startswith(("mtp.", "model.visual.", "visual.")):
        return False
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
    return int(layer[1]) <= deepest if layer else "embed_tokens" in key


@contextlib.contextmanager
def _trunk_view(folder: Path, deepest: int) -> Iterator[Path]:
    """The checkpoint as if it had been saved without the tensors that aren't needed, so that their files may lack."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        for single in folder.glob("*.safetensors"):
            _require_whole(single)
        yield folder
        return
    needed = trunk_shards(index, deepest)
    with tempfile.TemporaryDirectory(prefix="assay-trunk-") as name:
        view = Path(name)
        (view / index.name).write_text(json.dumps({"metadata": {}, "weight_map": needed}), "utf-8")
        for file in ["config.json", *sorted(set(needed.values()))]:
            if not (folder / file).is_file():
                raise AssayError(f"the checkpoint lacks {file}", where=str(folder), hint="fetch it again")
            if file.endswith(".safetensors"):
                _require_whole(folder / file)
            (view / file).symlink_to((folder / file).resolve())
        yield view


def _require_whole(file: Path) -> None:
    """AssayError unless the file's header can be read and all of its tensors lie in it."""
    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as e:
        raise AssayError(
            f"not a whole safetensors file ({printable(e)})", where=str(file), hint="damaged or cut? fetch it again"
        ) from e


def read_config(folder: Path) -> Any:
    """The checkpoint's configuration; AssayError if it can't be read or isn't of a known family."""
    where = str(folder / "config.json")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text = config.get_text_config()
        sizes = text.num_hidden_layers, text.hidden_size, text.vocab_size
    except Exception as e:
        raise AssayError(
            f"can't read the backbone's config.json: {printable(e, 400)}", where=where, hint="fetch it again"
        ) from e
    if config.model_type not in _TRUNKS:
        raise AssayError(
            f"backbone family {config.model_type!r} is not supported",
            where=where,
            hint=f"supported model_type: {', '.join(_TRUNKS)}",
        )
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise AssayError(f"(layers, width, vocabulary) of the backbone can't be {sizes}", where=where)
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
