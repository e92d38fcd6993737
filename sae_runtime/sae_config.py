"""What is said of an SAE beside its weights: how it encodes, and for which layer.

It stands in cfg.json (SAELens, sparsify) or config.json (Qwen-Scope), and for some fields in the names of folders.
Each field that would change the result is understood or refused by name; nothing is guessed.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from assay.schemas.errors import AssayError

Format = Literal["qwen-scope", "saelens", "sparsify"]
Activation = Literal["topk", "jumprelu"]

_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_ARCHITECTURES = ("topk", "jumprelu", "standard", *_BATCH_TOPK)
_MAX_CONFIG_BYTES = 16 * 2**20

_RESID_POST = re.compile(
    r"blocks\.(\d+)\.(?:hook_resid_post|hook_out)|(?:model\.)?(?:language_model\.)?layers\.(\d+)(?:\.output)?"
)
_NEXT_RESID_PRE = re.compile(r"blocks\.([1-9]\d*)\.(?:hook_resid_pre|hook_in)")
_HOOKPOINT = re.compile(r"(?:.*\.)?layers\.(\d+)(\..+)?")
_HOOK_HINT = "supported: the residual after a decoder layer, blocks.{n}.hook_resid_post or model.layers.{n}"


class Recipe(NamedTuple):
    """What the configuration says of one file."""

    activation: Activation = "topk"
    k: int | None = None
    subtract_b_dec: bool = False
    decoder_norm: bool = False
    """pre-activations are multiplied by the norms of the decoder's rows"""
    threshold: str = ""
    """the tensor with jumprelu's thresholds"""
    sizes: tuple[tuple[str, str, Any], ...] = ()
    """(axis, field, its value) for each size that the configuration states"""


def read_recipe(kind: Format, weights: Path, config_path: Path | None) -> Recipe:
    """The recipe of the SAE in `weights`; AssayError for a field that is wrong or asks for what isn't supported."""
    config = _read_object(config_path) if config_path else {}
    where = str(config_path or weights)
    if kind == "qwen-scope":
        return _qwen_scope_recipe(config, where, weights)
    if config_path is None:
        raise AssayError(f"a {kind} SAE needs its cfg.json", where=where)
    return _saelens_recipe(config, where) if kind == "saelens" else _sparsify_recipe(config, where)


def layer_of(config_path: Path, kind: Format | None) -> int:
    """The decoder layer after which the SAE of this cfg.json reads the residual; `kind` is None without weights.

    Raises AssayError where nothing says the layer, or it is said of another place in the model.
    """
    config = _read_object(config_path)
    by_hook = kind == "saelens" or (kind is None and bool(_hook_names(config, config_path)))
    return _saelens_layer(config, config_path) if by_hook else _sparsify_layer(config_path.parent)


def require_file(path: Path) -> None:
    """Raises AssayError unless `path` leads to a regular file."""
    if not path.is_file():
        raise AssayError("no such file, or not a file", where=str(path), hint="a folder, or a link that leads nowhere?")


# Layers


def _hook_names(config: dict[str, Any], path: Path) -> list[str]:
    fields = {**config, **_metadata(config, str(path))}
    block = fields.get("hook_layer", fields.get("hook_point_layer"))
    names = [fields[key] for key in ("hook_name", "hook_point", "hf_hook_name") if fields.get(key) is not None]
    return [str(name).replace("{layer}", str(block)) for name in names]


def _saelens_layer(config: dict[str, Any], path: Path) -> int:
    names = _hook_names(config, path)
    if not names:
        raise AssayError("no hook_name: which layer is it for?", where=str(path), hint=_HOOK_HINT)
    layers = set()
    for name in names:
        if match := _RESID_POST.fullmatch(name):
            layers.add(int(match[1] or match[2]))
        elif match := _NEXT_RESID_PRE.fullmatch(name):
            layers.add(int(match[1]) - 1)
        else:
            raise AssayError(f"hook {name!r} is not supported", where=str(path), hint=_HOOK_HINT)
    if len(layers) > 1:
        raise AssayError(f"hooks of different layers: {' and '.join(map(repr, names))}", where=str(path))
    return layers.pop()


def _sparsify_layer(folder: Path) -> int:
    """The layer in the name of the folder or of one just above it (layers.{n}/seed0); cfg.json doesn't say it."""
    for name in reversed(folder.absolute().parts[-3:]):
        if match := _HOOKPOINT.fullmatch(name):
            if match[2]:
                raise AssayError(f"hook {name!r} is not supported", where=str(folder), hint=_HOOK_HINT)
            return int(match[1])
    raise AssayError(
        "no folder name says which layer it is for", where=str(folder), hint="sparsify's name for layer n is layers.{n}"
    )


# Recipes


def _qwen_scope_recipe(config: dict[str, Any], where: str, weights: Path) -> Recipe:
    _refuse_unless(config, "hook_point", ("resid_post",), where)
    k = config.get("k")
    return Recipe(k=_k(_k_of_suite(weights) if k is None else k, where))


def _k_of_suite(weights: Path) -> int | None:
    """The number in ...-L0_{k}: in the folder's name, or in the repository's where the folder is a Hub snapshot."""
    above = [folder.name for folder in weights.absolute().parents]
    names = [above[0], *(above[2:3] if above[1:2] == ["snapshots"] else [])]
    matches = [match for name in names if (match := re.search(r"(?:^|[-_.])L0_(\d+)", name))]
    return int(matches[0][1]) if matches else None


def _saelens_recipe(config: dict[str, Any], where: str) -> Recipe:
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn", config.get("activation_fn_str"))
    k = config.get("k")
    if function == "topk" and architecture in ("standard", "topk"):  # files from before SAELens 6
        architecture = "topk"
        keywords = config.get("activation_fn_kwargs")
        k = keywords.get("k", k) if isinstance(keywords, dict) else k
    elif function not in (None, "relu"):
        raise _unsupported("activation_fn", function, "relu, topk", where)
    elif "architecture" not in config and k is not None:
        raise AssayError("k without an architecture", where=where, hint=f"supported: {', '.join(_ARCHITECTURES)}")
    if architecture not in _ARCHITECTURES:
        raise _unsupported("architecture", architecture, ", ".join(_ARCHITECTURES), where)
    _refuse_unless(config, "normalize_activations", ("none", False), where)
    _refuse_unless(config, "reshape_activations", ("none",), where)
    for fields in (config, _metadata(config, where)):
        _refuse_unless(fields, "hook_head_index", (), where)
    recipe = Recipe(
        subtract_b_dec=_flag(config, "apply_b_dec_to_input", True, where),
        sizes=(("D", "d_in", config.get("d_in")), ("F", "d_sae", config.get("d_sae"))),
    )
    if architecture == "topk":
        decoder_norm = _flag(config, "rescale_acts_by_decoder_norm", False, where)
        return recipe._replace(k=_k(k, where), decoder_norm=decoder_norm)
    if architecture in _BATCH_TOPK:
        # A training checkpoint, read as SAELens converts it for inference: no k, one threshold for all features.
        decoder_norm = _flag(config, "rescale_acts_by_decoder_norm", None, where)
        return recipe._replace(activation="jumprelu", decoder_norm=decoder_norm, threshold="topk_threshold")
    return recipe._replace(activation="jumprelu", threshold="threshold" if architecture == "jumprelu" else "")


def _sparsify_recipe(config: dict[str, Any], where: str) -> Recipe:
    _refuse_unless(config, "activation", ("topk",), where)
    for field in ("transcode", "skip_connection", "signed"):
        _refuse_unless(config, field, (False,), where)
    d_in, d_sae, factor = config.get("d_in"), config.get("num_latents"), config.get("expansion_factor")
    latents = ("F", "num_latents", d_sae or None)
    if not d_sae and isinstance(d_in, int) and isinstance(factor, int):
        latents = ("F", "d_in * expansion_factor", d_in * factor)
    return Recipe(k=_k(config.get("k"), where), subtract_b_dec=True, sizes=(("D", "d_in", d_in), latents))


def _read_object(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {_MAX_CONFIG_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise AssayError(f"not readable as JSON: {e}", where=str(path), hint="expected a JSON object") from e
    if not isinstance(value, dict):
        raise AssayError(f"not a JSON object but {type(value).__name__}", where=str(path))
    return value


def _metadata(config: dict[str, Any], where: str) -> dict[str, Any]:
    metadata = config.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise AssayError(f"metadata is {type(metadata).__name__}, expected an object", where=where)
    return metadata


def _k(value: Any, where: str) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise AssayError(f"k = {value!r}, expected a whole number from 1 to d_sae", where=where)
    return value


def _flag(config: dict[str, Any], field: str, default: bool | None, where: str) -> bool:
    value = config.get(field, default)
    if not isinstance(value, bool):
        raise _unsupported(field, value, "true, false", where)
    return value


def _refuse_unless(config: dict[str, Any], field: str, supported: tuple[object, ...], where: str) -> None:
    value = config.get(field)
    if value is not None and not any(value == good and type(value) is type(good) for good in supported):
        raise _unsupported(field, value, ", ".join(map(json.dumps, supported)) or "none", where)


def _unsupported(field: str, value: object, supported: str, where: str) -> AssayError:
    return AssayError(f"{field} {value!r} is not supported", where=where, hint=f"supported: {supported}")
