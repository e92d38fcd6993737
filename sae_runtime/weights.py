"""Where weights lie: the embedded model, a folder, or a Hub repository; and the hashes that pin them."""

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path

from assay.schemas.errors import AssayError

EMBEDDED = Path(__file__).parent / "embedded"
_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_BACKBONE_FILES = ["config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]


def backbone_folder(name: str, revision: str | None) -> Path:
    """The local folder with config.json, tokenizer.json and safetensors of `name`, fetched from the Hub if need be.

    Raises AssayError when there is no such folder and the Hub can't supply it.
    """
    folder = EMBEDDED if name == "embedded" else Path(name)
    if not folder.is_dir():
        folder = _from_hub(name, revision, _BACKBONE_FILES, "backbone")
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


def sae_file(name: str, revision: str | None, layer: int) -> Path:
    """The local path of layer{layer}.sae.pt in SAE suite `name`; AssayError lists the layers that exist."""
    folder = EMBEDDED / "saes" if name == "embedded" else Path(name)
    if not folder.is_dir():
        folder = _from_hub(name, revision, [f"layer{layer}.sae.pt", "*.json"], "SAE")
    path = folder / f"layer{layer}.sae.pt"
    if not path.is_file():
        there = sorted(int(m[1]) for p in folder.iterdir() if (m := re.fullmatch(r"layer(\d+)\.sae\.pt", p.name)))
        raise AssayError(
            f"no SAE for layer {layer}", where=str(folder), hint=f"layers with an SAE here: {there or 'none'}"
        )
    return path


def suite_k(name: str, path: Path) -> int | None:
    """Active features a token, from config.json beside the SAE file or from the suite's name (...-L0_50)."""
    config = path.parent / "config.json"
    if config.is_file():
        try:
            k = json.loads(config.read_text("utf-8")).get("k")
        except (ValueError, AttributeError) as e:
            raise AssayError("not a JSON object", where=str(config)) from e
        if k is not None:
            return int(k)
    named = re.search(r"L0_(\d+)", name)
    return int(named[1]) if named else None


def hashes(files: list[Path]) -> dict[str, str]:
    """File name -> SHA-256, for files with distinct names."""
    return {path.name: _sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


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
