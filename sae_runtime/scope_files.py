"""A scope's files on this machine, and the identity of the features that they give."""

from pathlib import Path
from typing import Literal, NamedTuple

from assay.sae_runtime.backbone import read_config
from assay.sae_runtime.file_hash import file_sha256
from assay.sae_runtime.hardware import cpu_rates
from assay.sae_runtime.sae_files import SaeFile, find_sae
from assay.sae_runtime.sae_weights import EncoderShape, read_shape
from assay.sae_runtime.weights import backbone_files, backbone_folder, refuse_strangers, sae_folder
from assay.schemas.errors import AssayError
from assay.schemas.scope import EncoderIdentity, Scope


class ScopeFiles(NamedTuple):
    """Where a scope's weights lie on this machine."""

    backbone: Path
    saes: dict[int, SaeFile]
    """layer -> SAE"""

    def hashes(self) -> dict[str, str]:
        """Every file that decides a feature -> SHA-256."""
        deepest = max(self.saes)
        found = {path.name: file_sha256(path) for path in backbone_files(self.backbone, deepest)}
        for layer, sae in sorted(self.saes.items()):
            name = sae.weights.name if sae.format == "qwen-scope" else f"layer{layer}/{sae.weights.name}"
            found[name] = file_sha256(sae.weights)
            if sae.format != "qwen-scope" and sae.config is not None:
                found[f"layer{layer}/{sae.config.name}"] = file_sha256(sae.config)
        return found


def locate(scope: Scope) -> ScopeFiles:
    """Finds (or fetches) the scope's files; AssayError says what is missing and where it was looked for."""
    folder = sae_folder(scope.sae, scope.sae_revision, scope.layers)
    saes = {layer: find_sae(folder, layer) for layer in scope.layers}
    return ScopeFiles(backbone_folder(scope.backbone, scope.backbone_revision, max(scope.layers)), saes)


def identify(scope: Scope, device: str) -> EncoderIdentity:
    """The identity of the features that `scope` gives on `device`, read off its files without loading weights.

    Raises AssayError for files that are missing, damaged, or don't belong together.
    """
    files = locate(scope)
    shape = _common_shape(scope, files)
    config = read_config(files.backbone).get_text_config()
    refuse_strangers(
        scope.sae,
        folder=str(files.backbone),
        model_type=config.model_type,
        layers=config.num_hidden_layers,
        d_model=config.hidden_size,
    )
    on_gpu = not device.startswith("cpu")
    return EncoderIdentity(
        files=files.hashes(),
        layers=scope.layers,
        activation=shape.activation,
        k=shape.k,
        d_model=shape.d_model,
        d_sae=shape.d_sae,
        window=scope.window,
        overlap=scope.overlap,
        max_tokens=scope.max_tokens,
        mask_first=scope.mask_first,
        norm_outlier=scope.norm_outlier,
        dtype=_fastest_dtype(on_gpu) if scope.dtype == "auto" else scope.dtype,
        encoder_dtype="float16" if on_gpu and not scope.exact else "float32",
    )


def _common_shape(scope: Scope, files: ScopeFiles) -> EncoderShape:
    shapes = {read_shape(sae) for sae in files.saes.values()}
    shapes = {shape._replace(k=scope.k or shape.k) if shape.activation == "topk" else shape for shape in shapes}
    if len(shapes) > 1:
        raise AssayError(
            f"the SAEs of one scope differ: {'; '.join(str(tuple(shape)) for shape in sorted(shapes, key=str))}",
            where=scope.sae,
            hint="(d_sae, d_model, k, activation) must be one for all layers; give other layers a scope of their own",
        )
    shape = shapes.pop()
    if shape.activation == "topk" and shape.k is None:
        raise AssayError(
            f"scope {scope.name!r}: k is not known",
            where=str(files.saes[scope.layers[0]].weights.parent),
            hint='set k in the scope, or put config.json with {"k": ...} beside the SAE files',
        )
    return shape


def _fastest_dtype(on_gpu: bool) -> Literal["float32", "bfloat16"]:
    return "bfloat16" if on_gpu or cpu_rates().bfloat16_pays else "float32"
