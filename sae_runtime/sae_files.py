"""Finds the SAE of a layer in a folder, whichever of three formats it is in, and names what to fetch of a repository.

| format | files of one layer |
|---|---|
| Qwen-Scope | layer{n}.sae.pt, perhaps config.json |
| SAELens | cfg.json, sae_weights.safetensors |
| sparsify | layers.{n}/cfg.json and sae.safetensors |
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from assay.sae_runtime.sae_config import Format, layer_of
from assay.schemas.errors import AssayError

_WEIGHTS: dict[str, Format] = {"sae_weights.safetensors": "saelens", "sae.safetensors": "sparsify"}
_DEPTH = 5
_FOLDER_HINT = (
    "expected layer{n}.sae.pt (Qwen-Scope), cfg.json with sae_weights.safetensors (SAELens), "
    "or layers.{n}/cfg.json with sae.safetensors (sparsify)"
)


class SaeFile(NamedTuple):
    """Where one layer's SAE lies, and in which format."""

    format: Format
    weights: Path
    config: Path | None
    """cfg.json of SAELens and sparsify; for Qwen-Scope the config.json beside the weights, if there is one"""


class _Candidate(NamedTuple):
    at: Path
    layer: int | None
    sae: SaeFile | None
    """None: a configuration without weights beside it"""
    problem: AssayError | None = None


def find_sae(folder: Path, layer: int) -> SaeFile:
    """The one SAE in `folder` for the residual after decoder layer `layer`.

    `folder` holds Qwen-Scope's layer{n}.sae.pt, or is a SAELens or sparsify folder, or holds such up to 5 levels down.
    A SAELens SAE of `blocks.{n+1}.hook_resid_pre` counts as layer n: it is the same stream as resid_post of layer n.
    Raises AssayError when the layer isn't there (listing those that are), or is there twice (naming both).
    """
    if not folder.is_dir():
        raise AssayError("no such folder", where=str(folder), hint=_FOLDER_HINT)
    try:
        found = [*_qwen_scope_files(folder), *(_candidate(at) for at in _config_folders(folder))]
    except OSError as e:
        raise AssayError(f"can't search the folder: {e}", where=str(folder)) from e
    here = [candidate for candidate in found if candidate.layer == layer]
    complete = [candidate.sae for candidate in here if candidate.sae]
    if len(complete) == 1:
        return complete[0]
    if complete:
        raise AssayError(
            f"{len(complete)} SAEs for layer {layer}: {' and '.join(str(sae.weights) for sae in complete)}",
            where=str(folder),
            hint="point at the folder of one of them",
        )
    if here:
        raise AssayError(
            f"the SAE for layer {layer} has no weights",
            where=str(here[0].at),
            hint=f"expected {' or '.join(_WEIGHTS)} beside its cfg.json; fetch that folder whole and point at it",
        )
    layers = sorted({candidate.layer for candidate in found if candidate.layer is not None})
    problems = [candidate.problem for candidate in found if candidate.problem]
    if problems and not layers:
        raise problems[0]
    hint = f"layers with an SAE here: {layers}" if layers else f"no SAE here; {_FOLDER_HINT}"
    if problems:
        hint += f"; not usable: {problems[0].where}: {problems[0].what}"
        hint += f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    raise AssayError(f"no SAE for layer {layer}", where=str(folder), hint=hint)


def hub_patterns(layer: int) -> list[str]:
    """Patterns for snapshot_download: small configuration files, and the weights of `layer` in any of the formats.

    SAELens folders may have any name; those known here hold blocks.{n}.hook_resid_post (or its synonyms) or layer{n},
    layer_{n}, layers.{n} and the like. Weights at the root are fetched too: such a repository is one SAE, and only its
    cfg.json says of which layer.
    """
    hooks = [f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_out"]
    hooks += [f"blocks.{layer + 1}.hook_resid_pre", f"blocks.{layer + 1}.hook_in"]
    names = [f"*{hook}*" for hook in hooks]
    names += [f"*layer{join}{layer}[!0-9]*" for join in ("", "_", "-", ".", "s.", "s_", "s-")]
    return [
        "config.json",
        *("cfg.json", "*/cfg.json"),
        f"layer{layer}.sae.pt",
        *_WEIGHTS,
        *(f"{name}sae_weights.safetensors" for name in names),
        *(f"*layers.{layer}/{below}sae.safetensors" for below in ("", "seed*/", f"layers.{layer}/")),
    ]


def _qwen_scope_files(folder: Path) -> Iterator[_Candidate]:
    config = folder / "config.json"
    for path in folder.iterdir():
        if named := re.fullmatch(r"layer(\d+)\.sae\.pt", path.name):
            sae = SaeFile("qwen-scope", path, config if os.path.lexists(config) else None)
            yield _Candidate(path, int(named[1]), sae)


def _config_folders(folder: Path) -> Iterator[Path]:
    """Folders with a cfg.json, `folder` first; each real folder once, however many links lead to it."""
    level, seen = [folder], set()
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for path in level:
            if (real := path.resolve()) in seen:
                continue
            seen.add(real)
            if os.path.lexists(path / "cfg.json"):
                yield path
            below += sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        level = below


def _candidate(folder: Path) -> _Candidate:
    weights = [folder / name for name in _WEIGHTS if os.path.lexists(folder / name)]
    kind = _WEIGHTS[weights[0].name] if weights else None
    config_path = folder / "cfg.json"
    try:
        if len(weights) > 1:
            raise AssayError(f"both {' and '.join(_WEIGHTS)}", where=str(folder), hint="keep one format a folder")
        layer = layer_of(config_path, kind)
    except AssayError as problem:
        return _Candidate(folder, None, None, problem)
    return _Candidate(folder, layer, SaeFile(kind, weights[0], config_path) if kind else None)
