"""The fourteen published suites, and that their SAEs are put on their own backbones only."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from assay.sae_runtime.runtime import Runtime
from assay.sae_runtime.suites import SUITES, Suite, suite_of, suite_scope
from assay.sae_runtime.weights import refuse_strangers
from assay.schemas.errors import AssayError
from tests.checkpoints import D_MODEL, LAYERS
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import tiny_scope

# arXiv 2605.11887, table 1: backbone, model_type, layers, d_model, and (width in units of 1024, L0) of its SAEs.
PUBLISHED = [
    ("Qwen3-1.7B-Base", "qwen3", 28, 2048, [(32, 50), (32, 100)]),
    ("Qwen3-8B-Base", "qwen3", 36, 4096, [(64, 50), (64, 100)]),
    ("Qwen3.5-2B-Base", "qwen3_5", 24, 2048, [(32, 50), (32, 100)]),
    ("Qwen3.5-9B-Base", "qwen3_5", 32, 4096, [(64, 50), (64, 100)]),
    ("Qwen3.5-27B", "qwen3_5", 64, 5120, [(80, 50), (80, 100)]),
    ("Qwen3-30B-A3B-Base", "qwen3_moe", 48, 2048, [(32, 50), (128, 100)]),
    ("Qwen3.5-35B-A3B-Base", "qwen3_5_moe", 40, 2048, [(32, 50), (128, 100)]),
]
NAMES = sorted(SUITES)


def test_the_registry_holds_the_fourteen_published_suites() -> None:
    want = {
        (f"Qwen/SAE-Res-{backbone}-W{width}K-L0_{k}", f"Qwen/{backbone}", family, layers, d_model, width * 1024, k)
        for backbone, family, layers, d_model, variants in PUBLISHED
        for width, k in variants
    }
    assert {(s.sae, s.backbone, s.family, s.layers, s.d_model, s.d_sae, s.k) for s in SUITES.values()} == want
    assert len(SUITES) == 14


@pytest.mark.parametrize("name", NAMES)
def test_a_suites_scope_is_sane(name: str) -> None:
    scope, suite = suite_scope(name), SUITES[name]
    assert (scope.backbone, scope.sae, scope.k) == (suite.backbone, suite.sae, suite.k)
    assert all(suite.layers // 2 <= layer < suite.layers for layer in scope.layers)
    assert 1024 <= scope.window <= (scope.on("cuda").batch_tokens or 0)
    assert 64 <= scope.overlap <= scope.window // 8
    assert scope.max_tokens is None, "nothing is cut off unless the user says so"
    assert scope.mask_first
    assert scope.norm_outlier


def test_an_unknown_suite_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(AssayError, match=r"did you mean 'qwen3-8b-base-w64k-l0_50'"):
        suite_scope("qwen3-8b-base-w64k-l050")


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_known_by_repository_and_by_a_folder_called_like_it(name: str) -> None:
    suite = SUITES[name]
    folder = suite.sae.removeprefix("Qwen/")
    assert suite_of(suite.sae) == suite
    assert suite_of(f"/data/{folder}") == suite
    assert suite_of(f"/data/{folder}/") == suite
    assert suite_of(f"mirror/{folder}") == suite
    assert suite_of(f"/data/{folder}-fine-tuned") is None
    assert suite_of("/data/saes") is None


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_taken_on_its_own_backbone_and_refused_on_every_other(name: str) -> None:
    suite = SUITES[name]
    for backbone, family, layers, d_model, _ in PUBLISHED:
        for model_type in (family, f"{family}_text"):
            shape = {"folder": backbone, "model_type": model_type, "layers": layers, "d_model": d_model}
            if suite.backbone == f"Qwen/{backbone}":
                refuse_strangers(suite.sae, **shape)
                continue
            with pytest.raises(AssayError, match=f"belong to {suite.backbone} ") as error:
                refuse_strangers(suite.sae, **shape)
            assert error.value.where == backbone
            assert f"{family} with {layers} layers of {d_model}" in error.value.hint


def test_saes_of_no_known_suite_are_taken_on_any_backbone() -> None:
    refuse_strangers("/data/saes", folder="model", model_type="qwen3", layers=3, d_model=7)


# In the runtime

TINY = {
    family: Suite(f"Qwen/SAE-Res-Tiny-{family}-W1K-L0_16", f"Qwen/Tiny-{family}", family, LAYERS, D_MODEL, 1024, 16, 64)
    for family in ("qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe")
}


@pytest.fixture
def tiny_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, suite in TINY.items():
        monkeypatch.setitem(SUITES, f"tiny-{family}", suite)


@pytest.mark.parametrize("of", TINY)
@pytest.mark.usefixtures("tiny_suites")
def test_the_runtime_takes_a_suite_on_its_own_family_only(tmp_path: Path, checkpoint: Checkpoint, of: str) -> None:
    (tmp_path / "model").symlink_to(checkpoint.folder / "model")
    folder = tmp_path / TINY[of].sae.removeprefix("Qwen/")
    folder.symlink_to(checkpoint.folder / "saes")
    scope = tiny_scope(tmp_path, sae=str(folder))
    if of == checkpoint.family:
        assert len(Runtime(scope, device="cpu", threads=1).features(["the quick fox"]).layers) == LAYERS
        return
    with pytest.raises(AssayError, match=f"belong to Qwen/Tiny-{of} "):
        Runtime(scope, device="cpu", threads=1)


def test_a_folder_called_like_a_published_suite_is_refused_on_another_backbone(
    tmp_path: Path, checkpoint_of: Callable[[str], Checkpoint]
) -> None:
    checkpoint = checkpoint_of("qwen3_5")
    (tmp_path / "model").symlink_to(checkpoint.folder / "model")
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
    folder.symlink_to(checkpoint.folder / "saes")
    with pytest.raises(AssayError, match=r"belong to Qwen/Qwen3-1\.7B-Base \(qwen3, 28 layers of 2048\)") as error:
        Runtime(tiny_scope(tmp_path, sae=str(folder)), device="cpu", threads=1)
    assert f"qwen3_5 with {LAYERS} layers of {D_MODEL}" in error.value.hint


def test_a_suites_k_is_known_without_a_configuration_beside_its_files(
    tmp_path: Path, qwen3: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUITES, "tiny-qwen3", TINY["qwen3"])
    (tmp_path / "model").symlink_to(qwen3.folder / "model")
    folder = tmp_path / TINY["qwen3"].sae.removeprefix("Qwen/")
    folder.mkdir()
    for layer in range(LAYERS):
        (folder / f"layer{layer}.sae.pt").symlink_to(qwen3.folder / "saes" / f"layer{layer}.sae.pt")
    scope = tiny_scope(tmp_path, sae=str(folder))
    got = Runtime(scope, device="cpu", threads=1).features(["the quick brown fox"])
    assert got.layers[1].count.sum() == TINY["qwen3"].k * got.tokens_seen[0]
    assert json.loads((qwen3.folder / "saes" / "config.json").read_text())["k"] == 16
