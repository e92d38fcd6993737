"""Checkpoints as published: read up to the deepest layer that is needed, and refused by name where they are damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from assay.sae_runtime.backbone import Backbone, trunk_shards
from assay.sae_runtime.runtime import Runtime
from assay.schemas.errors import AssayError
from tests.checkpoints import FAMILIES, LAYERS, causal_lm, save_checkpoint, save_model, save_tokenizer
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import TEXTS, assert_features, tiny_scope

INDEX = "model.safetensors.index.json"


def load(folder: Path, *layers: int) -> Backbone:
    return Backbone(folder, layers, dtype=torch.float32, device=torch.device("cpu"))


def trunk_of(model: transformers.PreTrainedModel, deepest: int) -> dict[str, torch.Tensor]:
    """What must be loaded of the whole model: its embedding and layers 0..deepest."""
    decoder = getattr(model.model, "language_model", model.model)
    kept = ("embed_tokens.", *(f"layers.{n}." for n in range(deepest + 1)))
    return {name: tensor for name, tensor in decoder.state_dict().items() if name.startswith(kept)}


def assert_is_the_trunk(backbone: Backbone, model: transformers.PreTrainedModel, deepest: int) -> None:
    want = trunk_of(model, deepest)
    loaded = dict(backbone.model.named_parameters())
    assert len(backbone.model.layers) == deepest + 1
    assert loaded.keys() == want.keys()
    assert all(torch.equal(loaded[name], want[name]) for name in want)


def shards_of(folder: Path, part: str) -> list[Path]:
    """The shard files with tensors whose names contain `part`."""
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    return sorted({folder / shard for key, shard in weight_map.items() if part in key})


def rewrite_index(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("sharded", [False, True], ids=["single-file", "sharded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_embedding_and_the_layers_up_to_the_deepest_are_loaded(
    tmp_path: Path, family: str, sharded: bool
) -> None:
    model = save_checkpoint(tmp_path / "model", family, sharded=sharded)
    for deepest in (1, LAYERS - 1):
        assert_is_the_trunk(load(tmp_path / "model", 0, deepest), model, deepest)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_checkpoints_have_the_published_layout(tmp_path: Path, family: str) -> None:
    """What the other tests rest on: head, vision and MTP are really there to be left out."""
    save_checkpoint(tmp_path / "model", family, sharded=True)
    keys = json.loads((tmp_path / "model" / INDEX).read_text())["weight_map"]
    assert "lm_head.weight" in keys
    assert "model.language_model.embed_tokens.weight" in keys
    assert "model.visual.patch_embed.proj.weight" in keys
    assert "mtp.layers.0.self_attn.q_proj.weight" in keys
    experts = {key for key in keys if ".mlp.experts." in key}
    if family == "qwen3_5_moe":
        assert "model.language_model.layers.0.mlp.experts.gate_up_proj" in experts
        assert "mtp.layers.0.mlp.experts.3.gate_proj.weight" in experts
    else:
        assert not experts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_that_transformers_saved_loads_as_well(tmp_path: Path, family: str) -> None:
    model = causal_lm(family)
    model.save_pretrained(tmp_path / "model", max_shard_size="150KB")
    assert (tmp_path / "model" / INDEX).is_file()
    assert_is_the_trunk(load(tmp_path / "model", 2), model, 2)


def test_a_checkpoint_without_a_head_of_its_own_loads(tmp_path: Path) -> None:
    model = causal_lm("qwen3")
    model.config.tie_word_embeddings = True
    save_model(tmp_path / "model", model)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    assert_is_the_trunk(load(tmp_path / "model", 2), model, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_files_load_into_float32_without_loss(tmp_path: Path, family: str) -> None:
    model = save_checkpoint(tmp_path / "model", family, dtype=torch.bfloat16)
    backbone = load(tmp_path / "model", 1)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert_is_the_trunk(backbone, model.float(), 1)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_a_text_only_checkpoint_gives_the_features_of_the_wrapper_with_the_same_weights(
    checkpoint_of: Callable[[str], Checkpoint], tmp_path: Path, family: str
) -> None:
    checkpoint = checkpoint_of(family)
    wrapper = causal_lm(family)
    text_class = {"qwen3_5": transformers.Qwen3_5ForCausalLM, "qwen3_5_moe": transformers.Qwen3_5MoeForCausalLM}[family]
    text_model = text_class(wrapper.config.text_config)
    text_model.model.load_state_dict(wrapper.model.language_model.state_dict())
    text_model.save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    (tmp_path / "saes").symlink_to(checkpoint.folder / "saes")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == f"{family}_text"
    got = Runtime(tiny_scope(tmp_path), device="cpu", threads=1).features(TEXTS)
    of_wrapper = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1).features(TEXTS)
    for layer, features in of_wrapper.layers.items():
        for name in ("offsets", "ids", "max", "mean", "count"):
            np.testing.assert_array_equal(getattr(got.layers[layer], name), getattr(features, name))
    assert_features(got, checkpoint.documents(TEXTS))


# Sharded checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_that_hold_nothing_needed_may_be_absent(tmp_path: Path, family: str) -> None:
    model = save_checkpoint(tmp_path / "model", family, sharded=True)
    for part in ("layers.2.", f"layers.{LAYERS - 1}.", "visual", "mtp.", "lm_head"):
        for shard in shards_of(tmp_path / "model", part):
            shard.unlink(missing_ok=True)
    assert_is_the_trunk(load(tmp_path / "model", 1), model, 1)


def test_shards_that_hold_nothing_needed_may_be_damaged(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "model", "qwen3_5", sharded=True)
    for part in ("layers.2.", "visual", "mtp.", "lm_head"):
        for shard in shards_of(tmp_path / "model", part):
            shard.write_bytes(b"not a safetensors file")
    assert_is_the_trunk(load(tmp_path / "model", 1), model, 1)


@pytest.mark.parametrize("part", ["embed_tokens", "layers.1."])
def test_a_needed_shard_that_is_missing_is_named(tmp_path: Path, part: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3", sharded=True)
    (shard,) = shards_of(tmp_path / "model", part)
    shard.unlink()
    with pytest.raises(AssayError, match=shard.name) as error:
        load(tmp_path / "model", 1)
    assert str(tmp_path / "model") in str(error.value)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in the header": lambda whole: whole[:30],
    "cut in the data": lambda whole: whole[:-100],
    "garbage": lambda whole: b"\xff" * len(whole),
    "a huge header length": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "a web page": lambda _: b"<html>you must log in to download this file</html>" * 10,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3", sharded=True)
    (shard,) = shards_of(tmp_path / "model", "layers.1.")
    shard.write_bytes(DAMAGES[damage](shard.read_bytes()))
    with pytest.raises(AssayError) as error:
        load(tmp_path / "model", 1)
    assert shard.name in str(error.value)
    assert "fetch" in error.value.hint


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_single_file_is_an_error_that_names_its_folder(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(AssayError, match=str(tmp_path / "model")) as error:
        load(tmp_path / "model", 1)
    assert "fetch" in error.value.hint


def test_tensors_that_the_files_lack_are_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssayError, match=r"lacks 1 tensors.*layers\.1\.mlp\.up_proj"):
        load(tmp_path / "model", 1)
    assert len(load(tmp_path / "model", 0).model.layers) == 1


def test_tensors_of_another_shape_than_the_config_says_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(7, 7)
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(AssayError, match=str(tmp_path / "model")):
        load(tmp_path / "model", 1)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/hostname", "sub/../../outside.safetensors", "..", ".", "", 7, None]
)
def test_an_index_that_names_files_outside_its_folder_is_refused(tmp_path: Path, name: object) -> None:
    model = save_checkpoint(tmp_path / "model", "qwen3", sharded=True)
    outside = {key: tensor + 1 for key, tensor in trunk_of(model, 0).items()}
    save_file({f"model.{key}": t for key, t in outside.items()}, tmp_path / "outside.safetensors", {"format": "pt"})
    rewrite_index(tmp_path / "model", lambda weight_map: weight_map.update({"model.embed_tokens.weight": name}))
    with pytest.raises(AssayError, match=str(tmp_path / "model")):
        load(tmp_path / "model", 1)
    with pytest.raises(AssayError):
        Runtime(tiny_scope(tmp_path, layers=(1,)), device="cpu", threads=1)


@pytest.mark.parametrize("name", ["config.json", INDEX, "weights.bin"])
def test_an_index_whose_shards_are_not_safetensors_is_refused(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3", sharded=True)
    torch.save({"model.embed_tokens.weight": torch.zeros(2, 2)}, tmp_path / "model" / "weights.bin")
    rewrite_index(tmp_path / "model", lambda weight_map: weight_map.update({"model.embed_tokens.weight": name}))
    with pytest.raises(AssayError, match=name):
        load(tmp_path / "model", 1)


NOT_AN_INDEX = ("", "{", "[]", "null", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": 1}')
DEEP = pytest.param("[" * 10**5, id="nested too deeply")


@pytest.mark.parametrize("text", [*NOT_AN_INDEX, DEEP])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3", sharded=True)
    (tmp_path / "model" / INDEX).write_text(text)
    with pytest.raises(AssayError, match=str(tmp_path / "model")):
        load(tmp_path / "model", 1)


def test_of_an_index_only_embedding_and_layers_up_to_the_deepest_are_needed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_5", sharded=True)
    names = set(trunk_shards(tmp_path / "model" / INDEX, 1))
    assert names == {f"model.language_model.{name}" for name in trunk_of(causal_lm("qwen3_5"), 1)}, (
        "head, vision, MTP and layers 2 and 3 are left out"
    )


# Configurations


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        DEEP,
        '{"model_type": "qwen3", "num_hidden_layers": "four"}',
        '{"model_type": "qwen3", "num_hidden_layers": -1}',
        '{"model_type": "qwen3", "hidden_size": null}',
        '{"model_type": 7}',
        '{"model_type": ["qwen3"]}',
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(AssayError, match=str(tmp_path / "model")):
        load(tmp_path / "model", 0)


def test_a_configuration_with_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(AssayError, match=r"config\.json"):
        load(tmp_path / "model", 0)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3")
    config = (tmp_path / "model" / "config.json").read_text().replace('"qwen3"', '"llama"')
    (tmp_path / "model" / "config.json").write_text(config)
    with pytest.raises(AssayError, match="family 'llama' is not supported"):
        load(tmp_path / "model", 0)


def test_a_layer_that_the_backbone_does_not_have_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_5")
    with pytest.raises(AssayError, match=f"layer {LAYERS} asked for, but the backbone has {LAYERS}"):
        load(tmp_path / "model", LAYERS)
