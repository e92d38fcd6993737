"""Where a scope's weights lie: the embedded model, a folder, or a Hub repository; only what is needed is fetched."""

import re
from collections.abc import Sequence
from pathlib import Path

from assay.sae_runtime.backbone import trunk_shards
from assay.sae_runtime.sae_files import hub_patterns
from assay.sae_runtime.suites import suite_of
from assay.schemas.errors import AssayError

EMBEDDED = Path(__file__).parent / "embedded"
_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_INDEX = "model.safetensors.index.json"


def backbone_folder(name: str, revision: str | None, deepest: int) -> Path:
    """The local folder of the backbone `name`, with at least what layers 0..deepest need; fetched if need be.

    Raises AssayError when there is no such folder and the Hub can't supply it.
    """
    folder = EMBEDDED if name == "embedded" else Path(name)
    if not folder.is_dir():
        small = ["config.json", "tokenizer.json", _INDEX]
        folder = _from_hub(name, revision, small, "backbone")
        index = folder / _INDEX
        shards = sorted(set(trunk_shards(index, deepest).values())) if index.is_file() else ["*.safetensors"]
        folder = _from_hub(name, revision, [*small, *shards], "backbone")
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise AssayError(
                f"no {needed} in the backbone's folder",
                where=str(folder),
                hint="expected a transformers checkpoint: config.json, tokenizer.json and *.safetensors",
            )
    if not any(folder.glob("*.safetensors")):
        raise AssayError(
            "no *.safetensors in the backbone's folder",
            where=str(folder),
            hint="other weight formats can hold code and aren't loaded; convert with save_pretrained",
        )
    return folder


def backbone_files(folder: Path, deepest: int) -> list[Path]:
    """The files that decide a residual at layer `deepest`: configuration, tokenizer and the safetensors needed."""
    index = folder / _INDEX
    if index.is_file():
        weights = [folder / shard for shard in sorted(set(trunk_shards(index, deepest).values()))]
    else:
        weights = sorted(folder.glob("*.safetensors"))
    files = [folder / "config.json", folder / "tokenizer.json", *weights]
    for file in files:
        if not file.is_file():
            raise AssayError(f"the checkpoint lacks {file.name}", where=str(folder), hint="fetch it again")
    return files


def sae_folder(name: str, revision: str | None, layers: Sequence[int]) -> Path:
    """The local folder of the SAEs `name`, with at least these layers if they come from the Hub."""
    folder = EMBEDDED / "saes" if name == "embedded" else Path(name)
    if folder.is_dir():
        return folder
    patterns = [pattern for layer in layers for pattern in hub_patterns(layer)]
    return _from_hub(name, revision, list(dict.fromkeys(patterns)), "SAE")


def refuse_strangers(sae: str, *, folder: str, model_type: str, layers: int, d_model: int) -> None:
    """Raises AssayError where a published SAE suite is put on another kind of backbone than its own.

    Two backbones can have one width (Qwen3-1.7B and Qwen3.5-2B both have 2048), so that shapes alone don't tell.
    Post-trained variants of the right backbone pass.
    """
    suite = suite_of(sae)
    if suite is None:
        return
    family = model_type.removesuffix("_text")
    if (family, layers, d_model) != (suite.family, suite.layers, suite.d_model):
        raise AssayError(
            f"the SAEs of {sae} belong to {suite.backbone} ({suite.family}, {suite.layers} layers of {suite.d_model})",
            where=folder,
            hint=f"this backbone is {family} with {layers} layers of {d_model}; `assay scopes` lists the pairs",
        )


def _from_hub(name: str, revision: str | None, patterns: list[str], kind: str) -> Path:
    if not _REPO_ID.match(name):
        raise AssayError(
            f"no such {kind}: {name!r}",
            hint="give 'embedded', an existing folder, or a Hub id such as Qwen/Qwen3-1.7B-Base",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as e:
        raise AssayError(
            f"can't fetch {kind} {name!r}: {type(e).__name__}",
            hint="is the Hub reachable and the id right? HF_TOKEN opens gated repositories",
        ) from e
