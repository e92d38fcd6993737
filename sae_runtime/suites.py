"""The fourteen published Qwen-Scope suites (arXiv 2605.11887, table 1) as ready scopes."""

from typing import NamedTuple

from assay.schemas.errors import unknown_name
from assay.schemas.scope import Scope


class Suite(NamedTuple):
    """One SAE repository: an SAE for each decoder layer of its backbone, layer0.sae.pt to layer{layers-1}.sae.pt."""

    sae: str
    backbone: str
    layers: int
    d_model: int
    d_sae: int
    k: int


_BACKBONES = [  # backbone, layers, d_model, [(width in 1024s, k), ...]
    ("Qwen3-1.7B-Base", 28, 2048, [(32, 50), (32, 100)]),
    ("Qwen3-8B-Base", 36, 4096, [(64, 50), (64, 100)]),
    ("Qwen3-30B-A3B-Base", 48, 2048, [(32, 50), (128, 100)]),
    ("Qwen3.5-2B-Base", 24, 2048, [(32, 50), (32, 100)]),
    ("Qwen3.5-9B-Base", 32, 4096, [(64, 50), (64, 100)]),
    ("Qwen3.5-27B", 64, 5120, [(80, 50), (80, 100)]),
    ("Qwen3.5-35B-A3B-Base", 40, 2048, [(32, 50), (128, 100)]),
]

SUITES: dict[str, Suite] = {
    f"{backbone.lower()}-w{width}k-l0_{k}": Suite(
        sae=f"Qwen/SAE-Res-{backbone}-W{width}K-L0_{k}",
        backbone=f"Qwen/{backbone}",
        layers=layers,
        d_model=d_model,
        d_sae=width * 1024,
        k=k,
    )
    for backbone, layers, d_model, variants in _BACKBONES
    for width, k in variants
}


def suite_scope(name: str) -> Scope:
    """The scope of a published suite: one layer at two thirds of the depth, where document-level concepts sit.

    The depth follows the finding of arXiv 2605.11887, section 5, that the best layers for classification lie in a
    band from the middle to the late ones.
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
        window=4096,
        overlap=256,
        batch_tokens=16384,
        shard_mb=64.0,
    )
