"""The fourteen published Qwen-Scope suites (arXiv 2605.11887, table 1) as ready scopes."""

from pathlib import PurePath
from typing import NamedTuple

from assay.schemas.errors import unknown_name
from assay.schemas.scope import Scope


class Suite(NamedTuple):
    """One SAE repository: an SAE for each decoder layer of its backbone, layer0.sae.pt to layer{layers-1}.sae.pt."""

    sae: str
    backbone: str
    family: str
    """the backbone's model_type"""
    layers: int
    d_model: int
    d_sae: int
    k: int
    window: int
    """tokens in one forward pass"""


_BACKBONES = [  # backbone, family, layers, d_model, window, [(width in 1024s, k), ...]
    ("Qwen3-1.7B-Base", "qwen3", 28, 2048, 8192, [(32, 50), (32, 100)]),
    ("Qwen3-8B-Base", "qwen3", 36, 4096, 8192, [(64, 50), (64, 100)]),
    ("Qwen3-30B-A3B-Base", "qwen3_moe", 48, 2048, 4096, [(32, 50), (128, 100)]),
    ("Qwen3.5-2B-Base", "qwen3_5", 24, 2048, 16384, [(32, 50), (32, 100)]),
    ("Qwen3.5-9B-Base", "qwen3_5", 32, 4096, 16384, [(64, 50), (64, 100)]),
    ("Qwen3.5-27B", "qwen3_5", 64, 5120, 16384, [(80, 50), (80, 100)]),
    ("Qwen3.5-35B-A3B-Base", "qwen3_5_moe", 40, 2048, 16384, [(32, 50), (128, 100)]),
]
_OVERLAP = 256

SUITES: dict[str, Suite] = {
    f"{backbone.lower()}-w{width}k-l0_{k}": Suite(
        sae=f"Qwen/SAE-Res-{backbone}-W{width}K-L0_{k}",
        backbone=f"Qwen/{backbone}",
        family=family,
        layers=layers,
        d_model=d_model,
        d_sae=width * 1024,
        k=k,
        window=window,
    )
    for backbone, family, layers, d_model, window, variants in _BACKBONES
    for width, k in variants
}


def suite_of(sae: str) -> Suite | None:
    """The published suite that a repository name or a folder called like it stands for."""
    name = PurePath(sae).name
    return next((suite for suite in SUITES.values() if PurePath(suite.sae).name == name), None)


def suite_scope(name: str) -> Scope:
    """The scope of a published suite: one layer at two thirds of the depth, where document-level concepts sit.

    The depth follows the finding of arXiv 2605.11887, section 5, that the best layers for classification lie in a
    band from the middle to the late ones. The window is the length up to which attention, which grows with it, stays a
    small part of the work: longest where three layers of four are linear, shortest where few weights are active.
    """
    suite = SUITES.get(name)
    if suite is None:
        raise unknown_name("suite", name, SUITES)
    return Scope(
        name=name,
        backbone=suite.backbone,
        sae=suite.sae,
        layers=(suite.layers * 2 // 3,),
        k=suite.k,
        window=suite.window,
        overlap=_OVERLAP,
        shard_mb=64.0,
    )
