"""What a runtime is made of: its identity, its files, and the errors of those that don't belong together."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch

from assay.sae_runtime.runtime import Runtime
from assay.schemas.errors import AssayError
from assay.schemas.scope import Scope
from tests.checkpoints import D_MODEL, VOCAB, save_checkpoint, save_saes
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import TEXTS, tiny_scope

SAE_LAYERS = (1, 3)


@pytest.fixture
def folder(tmp_path: Path, qwen3: Checkpoint) -> Path:
    """A checkpoint with SAEs for two layers, which a test may spoil."""
    save_checkpoint(tmp_path / "model", "qwen3")
    save_saes(tmp_path / "saes", SAE_LAYERS)
    return tmp_path


def load(folder: Path, **changes: object) -> Runtime:
    return Runtime(tiny_scope(folder, **({"layers": SAE_LAYERS} | changes)), device="cpu", threads=1)


# Identity


def test_the_same_files_and_settings_have_one_fingerprint_wherever_they_lie(folder: Path, qwen3: Checkpoint) -> None:
    moved = folder / "moved"
    moved.mkdir()
    for name in ("model", "saes"):
        (moved / name).symlink_to(folder / name)
    first, again, elsewhere = load(folder), load(folder), load(moved)
    assert first.features_fingerprint == again.features_fingerprint == elsewhere.features_fingerprint
    assert first.encoder_fingerprint == elsewhere.encoder_fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"layers": (1,)},
        {"k": 5},
        {"window": 32},
        {"overlap": 8},
        {"max_tokens": 100},
        {"mask_first": False},
        {"norm_outlier": 7.0},
        {"dtype": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_that_changes_features_changes_the_encoders_fingerprint(folder: Path, change: dict) -> None:
    plain, changed = load(folder), load(folder, **change)
    assert changed.encoder_fingerprint != plain.encoder_fingerprint
    assert changed.features_fingerprint != plain.features_fingerprint


@pytest.mark.parametrize("change", [{"top_m": 7}, {"batch_tokens": 64}], ids=lambda change: next(iter(change)))
def test_a_setting_that_changes_what_is_stored_leaves_taggers_valid(folder: Path, change: dict) -> None:
    plain, changed = load(folder), load(folder, **change)
    assert changed.encoder_fingerprint == plain.encoder_fingerprint
    assert changed.features_fingerprint != plain.features_fingerprint


def test_watched_features_are_part_of_what_is_stored(folder: Path) -> None:
    scope = tiny_scope(folder, layers=SAE_LAYERS)
    plain, one, both, turned = (
        Runtime(scope, device="cpu", threads=1, watched=watched)
        for watched in ([], [(1, 5)], [(1, 5), (3, 2)], [(3, 2), (1, 5), (1, 5)])
    )
    assert len({r.features_fingerprint for r in (plain, one, both)}) == 3
    assert both.features_fingerprint == turned.features_fingerprint
    assert plain.encoder_fingerprint == both.encoder_fingerprint


def test_changed_weights_change_the_fingerprint(folder: Path) -> None:
    before = load(folder).encoder_fingerprint
    sae = torch.load(folder / "saes" / "layer3.sae.pt")
    sae["W_enc"][0, 0] += 1
    torch.save(sae, folder / "saes" / "layer3.sae.pt")
    after = load(folder).encoder_fingerprint
    assert after != before
    assert load(folder, layers=(1,)).encoder_fingerprint not in (before, after)


def test_files_of_deeper_layers_do_not_matter(folder: Path) -> None:
    shallow = load(folder, layers=(1,))
    (folder / "saes" / "layer3.sae.pt").write_bytes(b"damaged")
    again = load(folder, layers=(1,))
    assert shallow.encoder_fingerprint == again.encoder_fingerprint


def test_the_screened_encoder_is_the_same_encoder(folder: Path) -> None:
    """Features are the same bits of the stored 11 or differ by one rounding, so both may meet in one dataset."""
    assert load(folder, exact=True).encoder_fingerprint == load(folder, exact=False).encoder_fingerprint


def test_a_runtime_is_the_same_after_it_was_used(folder: Path) -> None:
    runtime = load(folder)
    weights = {name: tensor.clone() for name, tensor in runtime.backbone.model.state_dict().items()}
    runtime.features(TEXTS)
    runtime.trace(TEXTS[0], {1: [1]})
    assert all(torch.equal(tensor, weights[name]) for name, tensor in runtime.backbone.model.state_dict().items())
    assert not any(layer._forward_hooks for layer in runtime.backbone.model.layers), "hooks are taken off again"


# Files that don't belong together


def test_an_sae_of_another_width_is_refused_by_name(folder: Path) -> None:
    sae = {"W_enc": torch.zeros(1024, D_MODEL + 1), "b_enc": torch.zeros(1024)}
    torch.save(sae, folder / "saes" / "layer1.sae.pt")
    with pytest.raises(AssayError, match=r"layer1\.sae\.pt.*d_model 65.*has 64"):
        load(folder, layers=(1,))
    with pytest.raises(AssayError, match=r"SAEs of one scope differ.*\(1024, 64.*\(1024, 65"):
        load(folder)


def test_a_layer_without_an_sae_lists_those_that_have_one(folder: Path) -> None:
    with pytest.raises(AssayError, match=r"no SAE for layer 2(.|\n)*\[1, 3\]"):
        load(folder, layers=(2,))


@pytest.mark.parametrize("k", [0, 1025])
def test_a_k_that_the_sae_cannot_have_is_refused(folder: Path, k: int) -> None:
    (folder / "saes" / "config.json").write_text(json.dumps({"k": k}))
    with pytest.raises(AssayError, match=rf"\b{k}\b"):
        load(folder)


def test_an_unknown_k_is_asked_for(folder: Path) -> None:
    (folder / "saes" / "config.json").unlink()
    with pytest.raises(AssayError, match="k is not known") as error:
        load(folder)
    assert "set k in the scope" in error.value.hint
    assert load(folder, k=3).features(["the quick fox"]).layers[1].count.sum() == 2 * 3


def test_a_tokenizer_with_more_tokens_than_the_backbone_embeds_is_refused(folder: Path) -> None:
    path = folder / "model" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"token{n}" for n in range(VOCAB)])
    tokenizer.save(str(path))
    with pytest.raises(AssayError, match=f"the backbone embeds {VOCAB}") as error:
        load(folder)
    assert str(folder / "model") in error.value.where


@pytest.mark.parametrize("text", ["", "{", "null", '{"model": {"type": "Nonsense"}}'])
def test_a_damaged_tokenizer_is_named(folder: Path, text: str) -> None:
    (folder / "model" / "tokenizer.json").write_text(text)
    with pytest.raises(AssayError, match=r"tokenizer\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_of_the_backbone_is_named(folder: Path, name: str) -> None:
    (folder / "model" / name).unlink()
    with pytest.raises(AssayError, match=name if name.endswith("json") else r"\*\.safetensors"):
        load(folder)


def test_a_name_that_is_neither_folder_nor_repository_is_refused() -> None:
    for name in ("no such folder", "../x", "", "/nowhere"):
        for changes in ({"backbone": name}, {"sae": name}):
            scope = Scope(**({"name": "x", "backbone": "embedded", "sae": "embedded", "layers": (1,)} | changes))
            with pytest.raises(AssayError, match=r"no such|lacks|no "):
                Runtime(scope, device="cpu", threads=1)
