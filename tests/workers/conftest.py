"""A small Ray cluster, and a small scope with its taggers, shared by the tests that need them."""

import os
import random
from collections.abc import Iterator

import pytest

from assay.sae_runtime.runtime import Runtime
from assay.schemas.scope import Scope
from assay.schemas.tagger import Tagger
from assay.workers.session import ray_session
from tests.checkpoints import save_checkpoint, save_saes

from .feature_tables import labeller, score


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster of two cores."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.pop("RAY_ADDRESS", None)
    with ray_session("local", cpus=2):
        yield


@pytest.fixture(scope="session")
def tiny_scope(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    """A scope of random weights that runs on a CPU in no time."""
    folder = tmp_path_factory.mktemp("scope")
    save_checkpoint(folder / "model", "qwen3")
    save_saes(folder / "saes", [1, 3])
    return Scope(
        name="tiny",
        backbone=str(folder / "model"),
        sae=str(folder / "saes"),
        layers=(1, 3),
        window=64,
        overlap=16,
        top_m=24,
        batch_tokens=512,
    )


@pytest.fixture(scope="session")
def tiny_taggers(tiny_scope: Scope) -> tuple[Tagger, Tagger]:
    """A score and a labeller for that scope, with random weights on features that fire."""
    runtime = Runtime(tiny_scope, device="cpu")
    layers = runtime.features(["the quick brown fox jumps over the lazy dog " * 3]).layers
    draw = random.Random(0)
    keys = [(layer, f) for layer in (1, 3) for f in layers[layer].ids[:6].tolist()]
    quality = score({key: (2.0, draw.uniform(-1, 1)) for key in keys}, encoder=runtime.encoder_fingerprint)
    domain = labeller(
        {key: (2.0, tuple(draw.uniform(-1, 1) for _ in range(3))) for key in keys},
        encoder=runtime.encoder_fingerprint,
    )
    return quality, domain
