"""SAE files of three formats: each encoder against its own format's formula, and every way a file can be wrong."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay.sae_runtime.sae_files import SaeFile, find_sae, hub_patterns
from assay.sae_runtime.sae_weights import EncoderWeights, read_encoder, read_shape
from assay.schemas.errors import AssayError

F, D, K = 48, 16, 5
SAELENS = "sae_weights.safetensors"
SPARSIFY = "sae.safetensors"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))


def random(*shape: int, scale: float = 0.3, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale


def hidden() -> Tensor:
    return random(64, D, scale=2.0, seed=9) + 0.5


def save_qwen_scope(folder: Path, layer: int = 3, config: Any = None, **changed: Any) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"W_enc": random(F, D), "W_dec": random(D, F), "b_enc": random(F), "b_dec": random(D)} | changed
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save(state, folder / f"layer{layer}.sae.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return state


def saelens_config(**changed: Any) -> dict[str, Any]:
    """As SAELens 6 writes it; None leaves a field out."""
    config: dict[str, Any] = {
        "architecture": "topk",
        "k": K,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post", "hook_head_index": None},
    } | changed
    return {field: value for field, value in config.items() if value is not None}


def save_saelens(folder: Path, tensors: dict[str, Any] | None = None, **changed: Any) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"W_enc": random(D, F), "W_dec": random(F, D), "b_enc": random(F), "b_dec": random(D)} | (tensors or {})
    state = {name: tensor.contiguous() for name, tensor in state.items() if tensor is not None}
    save_file(state, folder / SAELENS)
    (folder / "cfg.json").write_text(json.dumps(saelens_config(**changed)))
    return state


def sparsify_config(**changed: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": F,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    } | changed
    return {field: value for field, value in config.items() if value is not None}


def save_sparsify(folder: Path, tensors: dict[str, Any] | None = None, **changed: Any) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"encoder.weight": random(F, D), "encoder.bias": random(F), "W_dec": random(F, D, seed=1)}
    state |= {"b_dec": random(D)} | (tensors or {})
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, folder / SPARSIFY)
    (folder / "cfg.json").write_text(json.dumps(sparsify_config(**changed)))
    return state


def encode(weights: EncoderWeights, h: Tensor) -> Tensor:
    """Dense activations by the contract of EncoderWeights."""
    pre = h @ weights.W_enc_FD.float().T + weights.b_enc_F
    if weights.activation == "jumprelu":
        assert weights.threshold_F is not None
        return torch.where(pre > weights.threshold_F, pre, 0.0)
    assert weights.k is not None
    return keep_top(pre, weights.k)


def keep_top(pre: Tensor, k: int) -> Tensor:
    values, ids = pre.relu().topk(k)
    return torch.zeros_like(pre).scatter(1, ids, values)


def same(acts: Tensor, expected: Tensor) -> bool:
    return ((acts > 0) == (expected > 0)).all().item() and torch.allclose(acts, expected, atol=1e-5)


# Qwen-Scope


def test_qwen_scope_encodes_without_subtracting_b_dec(tmp_path: Path) -> None:
    state = save_qwen_scope(tmp_path, config={"k": K, "hook_point": "resid_post"})
    weights = read_encoder(find_sae(tmp_path, 3))
    assert same(encode(weights, hidden()), keep_top(hidden() @ state["W_enc"].T + state["b_enc"], K))
    assert weights.W_enc_FD.equal(state["W_enc"])
    assert (weights.activation, weights.k, weights.threshold_F) == ("topk", K, None)


@pytest.mark.parametrize(
    ("folder", "k"),
    [
        ("SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", 50),
        ("hub/models--Qwen--SAE-Res-Qwen3-1.7B-Base-W32K-L0_20/snapshots/0f3c", 20),
        ("L0_7-runs/mine", None),
        ("mine", None),
    ],
)
def test_k_is_read_from_the_name_of_the_suite(tmp_path: Path, folder: str, k: int | None) -> None:
    save_qwen_scope(tmp_path / folder, W_enc=random(64, D), W_dec=None, b_enc=random(64))
    assert read_shape(find_sae(tmp_path / folder, 3)) == (64, D, k, "topk")
    assert read_encoder(find_sae(tmp_path / folder, 3)).k == k


def test_a_k_in_config_json_wins_over_the_name(tmp_path: Path) -> None:
    save_qwen_scope(tmp_path / "x-L0_20", config={"k": 7})
    assert read_encoder(find_sae(tmp_path / "x-L0_20", 3)).k == 7


def test_a_relative_path_gives_the_same_k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_qwen_scope(tmp_path / "x-L0_20")
    monkeypatch.chdir(tmp_path / "x-L0_20")
    assert read_shape(find_sae(Path(), 3)).k == 20


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's maps")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_keep_their_stored_type_and_stay_in_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    tall = random(4096, 1024).to(dtype)
    save_qwen_scope(tmp_path / "q", W_enc=tall, W_dec=None, b_enc=random(4096).to(dtype), b_dec=None)
    save_saelens(
        tmp_path / "s",
        {"W_enc": tall.T, "W_dec": None, "b_enc": random(4096).to(dtype), "b_dec": None},
        d_in=1024,
        d_sae=4096,
    )
    for folder in ("q", "s"):
        sae = find_sae(tmp_path / folder, 3)
        weights = read_encoder(sae)
        assert weights.W_enc_FD.dtype == dtype
        assert weights.W_enc_FD.equal(tall)
        assert weights.b_enc_F.dtype == torch.float32
        assert mapped_file(weights.W_enc_FD) == os.path.realpath(sae.weights)


def mapped_file(tensor: Tensor) -> str:
    """The file that the tensor's memory is a view of."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.partition("/")[1] + line.partition("/")[2]
    return ""


# SAELens


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_saelens_topk_is_folded_exactly(tmp_path: Path, subtract: bool, rescale: bool) -> None:
    s = save_saelens(tmp_path, apply_b_dec_to_input=subtract, rescale_acts_by_decoder_norm=rescale)
    pre = (hidden() - s["b_dec"] * subtract) @ s["W_enc"] + s["b_enc"]
    if rescale:
        pre = pre * s["W_dec"].norm(dim=-1)
    weights = read_encoder(find_sae(tmp_path, 3))
    assert weights.k == K
    assert same(encode(weights, hidden()), keep_top(pre, K))


@pytest.mark.parametrize("subtract", [True, False])
def test_saelens_jumprelu_applies_relu_and_a_strict_threshold(tmp_path: Path, subtract: bool) -> None:
    threshold = random(F, scale=0.8)
    assert (threshold < 0).any()
    s = save_saelens(tmp_path, {"threshold": threshold}, architecture="jumprelu", k=None, apply_b_dec_to_input=subtract)
    pre = (hidden() - s["b_dec"] * subtract) @ s["W_enc"] + s["b_enc"]
    weights = read_encoder(find_sae(tmp_path, 3))
    assert same(encode(weights, hidden()), pre.relu() * (pre > threshold))
    assert (weights.activation, weights.k) == ("jumprelu", None)
    assert weights.threshold_F is not None
    assert weights.threshold_F.min() == 0


def test_jumprelu_ignores_a_rescaling_that_saelens_has_only_in_topk(tmp_path: Path) -> None:
    s = save_saelens(
        tmp_path, {"threshold": torch.full((F,), 0.4)}, architecture="jumprelu", rescale_acts_by_decoder_norm=True
    )
    pre = hidden() @ s["W_enc"] + s["b_enc"]
    assert same(encode(read_encoder(find_sae(tmp_path, 3)), hidden()), pre * (pre > 0.4))


def test_log_thresholds_of_older_training_checkpoints_are_thresholds(tmp_path: Path) -> None:
    s = save_saelens(tmp_path, {"log_threshold": random(F)}, architecture="jumprelu")
    pre = hidden() @ s["W_enc"] + s["b_enc"]
    weights = read_encoder(find_sae(tmp_path, 3))
    assert same(encode(weights, hidden()), pre * (pre > s["log_threshold"].exp()))


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescale", [True, False])
def test_a_batchtopk_checkpoint_becomes_jumprelu_with_one_threshold(
    tmp_path: Path, architecture: str, rescale: bool
) -> None:
    s = save_saelens(
        tmp_path,
        {"topk_threshold": torch.tensor(0.7, dtype=torch.float64)},
        architecture=architecture,
        k=6.5,
        apply_b_dec_to_input=True,
        rescale_acts_by_decoder_norm=rescale,
    )
    pre = (hidden() - s["b_dec"]) @ s["W_enc"] + s["b_enc"]
    if rescale:
        pre = pre * s["W_dec"].norm(dim=-1)
    weights = read_encoder(find_sae(tmp_path, 3))
    assert (weights.activation, weights.k) == ("jumprelu", None)
    assert same(encode(weights, hidden()), pre * (pre > 0.7))


def test_saelens_standard_is_plain_relu(tmp_path: Path) -> None:
    s = save_saelens(tmp_path, architecture="standard", k=None, apply_b_dec_to_input=True)
    weights = read_encoder(find_sae(tmp_path, 3))
    assert same(encode(weights, hidden()), ((hidden() - s["b_dec"]) @ s["W_enc"] + s["b_enc"]).relu())
    assert weights.threshold_F is not None
    assert not weights.threshold_F.any()


def test_b_dec_is_subtracted_where_cfg_json_does_not_say(tmp_path: Path) -> None:
    s = save_saelens(tmp_path, architecture="standard", k=None, apply_b_dec_to_input=None)
    acts = encode(read_encoder(find_sae(tmp_path, 3)), hidden())
    assert same(acts, ((hidden() - s["b_dec"]) @ s["W_enc"] + s["b_enc"]).relu())


@pytest.mark.parametrize("field", ["activation_fn", "activation_fn_str"])
@pytest.mark.parametrize("architecture", [None, "standard", "topk"])
def test_topk_files_from_before_saelens_6_are_topk(tmp_path: Path, field: str, architecture: str | None) -> None:
    save_saelens(tmp_path)
    legacy = {
        field: "topk",
        "activation_fn_kwargs": {"k": 4},
        "hook_name": "blocks.3.hook_resid_post",
        "hook_layer": 3,
        "normalize_activations": False,
        "apply_b_dec_to_input": False,
        "dtype": "torch.float32",
        "d_in": D,
        "d_sae": F,
        "hook_head_index": None,
    }
    (tmp_path / "cfg.json").write_text(json.dumps(legacy | ({"architecture": architecture} if architecture else {})))
    s = load_file(tmp_path / SAELENS)
    expected = keep_top(hidden() @ s["W_enc"] + s["b_enc"], 4)
    assert same(encode(read_encoder(find_sae(tmp_path, 3)), hidden()), expected)


def test_a_file_without_any_activation_is_plain_relu_as_in_the_first_versions(tmp_path: Path) -> None:
    save_saelens(tmp_path, architecture=None, k=None)
    assert read_shape(find_sae(tmp_path, 3)).activation == "jumprelu"
    save_saelens(tmp_path, architecture=None)
    with pytest.raises(AssayError, match="k without an architecture"):
        read_shape(find_sae(tmp_path, 3))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        *(
            ({"architecture": name}, f"architecture '{name}'")
            for name in ("gated", "abstopk", "matching_pursuit", "temporal", "transcoder", "skip_transcoder")
        ),
        ({"architecture": 3}, "architecture 3"),
        *(
            ({"normalize_activations": name}, f"normalize_activations '{name}'")
            for name in ("expected_average_only_in", "layer_norm", "constant_norm_rescale", "covariance_whitening")
        ),
        ({"normalize_activations": True}, "normalize_activations True"),
        ({"reshape_activations": "hook_z"}, "reshape_activations 'hook_z'"),
        ({"activation_fn": "tanh-relu"}, "activation_fn 'tanh-relu'"),
        ({"architecture": "jumprelu", "activation_fn_str": "topk"}, "activation_fn 'topk'"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input 'yes'"),
        ({"architecture": "batchtopk", "rescale_acts_by_decoder_norm": None}, "rescale_acts_by_decoder_norm None"),
        ({"hook_head_index": 2}, "hook_head_index 2"),
    ],
)
def test_what_cannot_be_folded_is_refused_by_field_and_value(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    save_saelens(tmp_path, {"threshold": torch.ones(F), "topk_threshold": torch.tensor(1.0)}, **changed)
    for read in (read_shape, read_encoder):
        with pytest.raises(AssayError) as error:
            read(find_sae(tmp_path, 3))
        assert named in error.value.what
        assert error.value.where == str(tmp_path / "cfg.json")
        assert "supported: " in error.value.hint


# sparsify


def test_sparsify_subtracts_b_dec(tmp_path: Path) -> None:
    s = save_sparsify(tmp_path / "layers.3")
    weights = read_encoder(find_sae(tmp_path, 3))
    pre = (hidden() - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]
    assert same(encode(weights, hidden()), keep_top(pre, K))
    assert weights.W_enc_FD.equal(s["encoder.weight"])


def test_sparsify_needs_no_decoder_and_states_its_width_in_two_ways(tmp_path: Path) -> None:
    save_sparsify(tmp_path / "layers.3", {"W_dec": None}, num_latents=0, expansion_factor=F // D)
    assert read_shape(find_sae(tmp_path, 3)) == (F, D, K, "topk")
    save_sparsify(tmp_path / "layers.3", num_latents=0, expansion_factor=2)
    with pytest.raises(AssayError, match=r"d_sae 48, but cfg.json says d_in \* expansion_factor = 32"):
        read_shape(find_sae(tmp_path, 3))


@pytest.mark.parametrize(
    "changed", [{"activation": "groupmax"}, {"transcode": True}, {"skip_connection": True}, {"signed": True}]
)
def test_other_sparsify_models_are_refused_by_name(tmp_path: Path, changed: dict[str, Any]) -> None:
    save_sparsify(tmp_path / "layers.3", **changed)
    ((field, value),) = changed.items()
    with pytest.raises(AssayError, match=f"{field} {value!r} is not supported"):
        read_encoder(find_sae(tmp_path, 3))


@pytest.mark.parametrize("value", [0.0, 1e3])
def test_folding_a_large_b_dec_loses_no_more_than_rounding_the_result(tmp_path: Path, value: float) -> None:
    s = save_sparsify(tmp_path / "layers.3", {"b_dec": random(D) + value})
    exact = s["encoder.bias"].double() - s["encoder.weight"].double() @ s["b_dec"].double()
    assert read_encoder(find_sae(tmp_path, 3)).b_enc_F.equal(exact.float())


def test_float64_weights_are_read_as_fp32(tmp_path: Path) -> None:
    s = save_sparsify(tmp_path / "layers.3", {"encoder.weight": random(F, D).double()})
    weights = read_encoder(find_sae(tmp_path, 3))
    assert weights.W_enc_FD.dtype == torch.float32
    assert weights.W_enc_FD.equal(s["encoder.weight"].float())
    save_sparsify(tmp_path / "layers.3", {"encoder.weight": torch.full((F, D), 1e300, dtype=torch.float64)})
    with pytest.raises(AssayError, match="holds NaN or infinity"):
        read_encoder(find_sae(tmp_path, 3))


# Finding


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.3.hook_resid_post", 3),
        ("blocks.3.hook_out", 3),
        ("model.layers.3", 3),
        ("model.language_model.layers.13", 13),
        ("blocks.4.hook_resid_pre", 3),
        ("blocks.4.hook_in", 3),
    ],
)
def test_a_saelens_hook_names_the_layer(tmp_path: Path, hook: str, layer: int) -> None:
    save_saelens(tmp_path / "any" / "name", metadata={"hook_name": hook})
    assert find_sae(tmp_path, layer) == SaeFile(
        "saelens", tmp_path / "any/name" / SAELENS, tmp_path / "any/name/cfg.json"
    )
    assert find_sae(tmp_path / "any/name", layer).format == "saelens"


def test_the_huggingface_hook_name_and_the_oldest_template_name_the_layer_too(tmp_path: Path) -> None:
    save_saelens(tmp_path / "a", metadata={"hf_hook_name": "model.layers.6"})
    save_saelens(tmp_path / "b", metadata=None, hook_point="blocks.{layer}.hook_resid_post", hook_point_layer=8)
    assert find_sae(tmp_path, 6).weights.parent.name == "a"
    assert find_sae(tmp_path, 8).weights.parent.name == "b"


@pytest.mark.parametrize(
    "metadata",
    [
        {"hook_name": "blocks.3.hook_mlp_out"},
        {"hook_name": "blocks.3.attn.hook_z"},
        {"hook_name": "blocks.0.hook_resid_pre"},
        {"hook_name": "blocks.3.hook_resid_mid"},
        {"hook_name": "blocks.3.hook_resid_post", "hf_hook_name": "model.layers.3.mlp"},
    ],
)
def test_other_hooks_are_refused_by_name(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_saelens(tmp_path, metadata=metadata)
    with pytest.raises(AssayError, match="is not supported") as error:
        find_sae(tmp_path, 3)
    assert repr(list(metadata.values())[-1]) in error.value.what
    assert "resid_post" in error.value.hint


def test_hooks_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    save_saelens(tmp_path, metadata={"hook_name": "blocks.3.hook_resid_post", "hf_hook_name": "model.layers.4"})
    with pytest.raises(AssayError, match="hooks of different layers"):
        find_sae(tmp_path, 3)


@pytest.mark.parametrize("name", ["layers.3", "model.layers.3", "run/best/layers.3", "layers.3/seed0"])
def test_a_sparsify_folder_names_its_layer(tmp_path: Path, name: str) -> None:
    save_sparsify(tmp_path / name)
    for root in (tmp_path, tmp_path / name):
        assert find_sae(root, 3) == SaeFile("sparsify", tmp_path / name / SPARSIFY, tmp_path / name / "cfg.json")


def test_a_sparsify_folder_of_another_module_or_name_is_refused(tmp_path: Path) -> None:
    save_sparsify(tmp_path / "layers.3.mlp")
    with pytest.raises(AssayError, match=r"'layers.3.mlp' is not supported"):
        find_sae(tmp_path, 3)
    save_sparsify(tmp_path / "renamed" / "to" / "this")
    with pytest.raises(AssayError, match="no folder name says which layer"):
        find_sae(tmp_path / "renamed" / "to" / "this", 3)


def test_a_missing_layer_lists_the_layers_of_the_folder(tmp_path: Path) -> None:
    save_qwen_scope(tmp_path / "q", layer=0)
    save_qwen_scope(tmp_path / "q", layer=11)
    save_saelens(tmp_path / "mixed" / "a", metadata={"hook_name": "blocks.2.hook_resid_post"})
    save_sparsify(tmp_path / "mixed" / "layers.9")
    save_saelens(tmp_path / "mixed" / "b", metadata={"hook_name": "blocks.5.hook_mlp_out"})
    with pytest.raises(AssayError, match=r"no SAE for layer 1(.|\n)*\[0, 11\]"):
        find_sae(tmp_path / "q", 1)
    with pytest.raises(AssayError, match=r"no SAE for layer 5(.|\n)*\[2, 9\](.|\n)*hook_mlp_out"):
        find_sae(tmp_path / "mixed", 5)
    assert find_sae(tmp_path / "mixed", 9).format == "sparsify"


def test_two_saes_of_one_layer_are_both_named(tmp_path: Path) -> None:
    for width in ("width_16k", "width_65k"):
        save_saelens(tmp_path / "layer_3" / width)
    with pytest.raises(AssayError, match=r"2 SAEs for layer 3: .*width_16k.* and .*width_65k(.|\n)*point at"):
        find_sae(tmp_path, 3)
    assert find_sae(tmp_path / "layer_3" / "width_65k", 3).weights.parent.name == "width_65k"


def test_a_link_to_a_folder_beside_it_is_not_a_second_sae(tmp_path: Path) -> None:
    save_saelens(tmp_path / "step_100")
    (tmp_path / "latest").symlink_to("step_100")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_sae(tmp_path, 3).format == "saelens"


def test_a_folder_without_saes_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"layer\{n\}\.sae\.pt"):
        find_sae(tmp_path, 3)
    with pytest.raises(AssayError, match="no such folder"):
        find_sae(tmp_path / "missing", 3)


def test_a_configuration_without_weights_is_named(tmp_path: Path) -> None:
    save_saelens(tmp_path / "odd-name")
    (tmp_path / "odd-name" / SAELENS).unlink()
    with pytest.raises(AssayError, match="has no weights") as error:
        find_sae(tmp_path, 3)
    assert error.value.where == str(tmp_path / "odd-name")
    with pytest.raises(AssayError, match=r"layers with an SAE here: \[3\]"):
        find_sae(tmp_path, 4)


# Fetching


def repository(layers: int) -> list[str]:
    """Paths as published repositories of the three formats have them, and as their layers' numbers can mislead."""
    templates = [
        "layer{}.sae.pt",
        "blocks.{}.hook_resid_post/sae_weights.safetensors",
        "standard/blocks.{}.hook_resid_post_24576/sae_weights.safetensors",
        "layer_{}/width_1k/average_l0_12/sae_weights.safetensors",
        "resid_post_layer_{}/trainer_1/sae_weights.safetensors",
        "resid_post/layer_{}_width_16k_l0_medium/sae_weights.safetensors",
        "layers.{}/sae.safetensors",
        "run/model.layers.{}/sae.safetensors",
        "layers.{}/seed1/sae.safetensors",
    ]
    return [template.format(layer) for layer in range(layers) for template in templates]


@pytest.mark.parametrize("layer", [0, 1, 2, 12])
def test_hub_patterns_fetch_the_weights_of_one_layer_only(layer: int) -> None:
    files = repository(25)
    fetched = set(filter_repo_objects(files, allow_patterns=hub_patterns(layer)))
    assert fetched == set(repository(25)[layer * 9 : (layer + 1) * 9])


def test_hub_patterns_fetch_every_configuration_and_a_repository_of_one_sae() -> None:
    files = ["cfg.json", "config.json", "a/b/cfg.json", SAELENS, SPARSIFY]
    noise = ["README.md", "app.py", "a/b/sparsity.safetensors", "model.safetensors", "blocks.1.hook_resid_post/x.bin"]
    assert list(filter_repo_objects([*files, *noise], allow_patterns=hub_patterns(1))) == files


def test_hub_patterns_fetch_the_next_layers_resid_pre_as_this_layer() -> None:
    files = [f"blocks.{n}.hook_resid_pre/{SAELENS}" for n in range(12)]
    assert list(filter_repo_objects(files, allow_patterns=hub_patterns(0))) == [files[1]]


# Wrong files

FORMATS = ("qwen-scope", "saelens", "sparsify")


def save(format: str, folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> SaeFile:
    """A sound SAE of the format, with some of its tensors (by Qwen-Scope's names) and configuration changed."""
    changed = dict(tensors or {})
    turned = ("W_enc", "W_dec") if format == "saelens" else ("W_dec",) if format == "sparsify" else ()
    for name in turned:
        if (tensor := changed.get(name)) is not None and tensor.ndim == 2:
            changed[name] = tensor.T.contiguous()
    if format == "qwen-scope":
        save_qwen_scope(folder, config=config or None, **changed)
    elif format == "saelens":
        save_saelens(folder, changed, **config)
    else:
        folder = folder / "layers.3"
        names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
        save_sparsify(folder, {names.get(name, name): tensor for name, tensor in changed.items()}, **config)
    return find_sae(folder, 3)


def refusal(sae: SaeFile, *reads: Any) -> str:
    """What read_shape (unless told otherwise) and read_encoder say alike."""
    said = set()
    for read in reads or (read_shape, read_encoder):
        with pytest.raises(AssayError) as error:
            read(sae)
        assert error.value.where in (str(sae.weights), str(sae.config))
        said.add(error.value.what)
    (what,) = said
    return what


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_tensor_is_named(tmp_path: Path, format: str) -> None:
    assert "no tensor" in refusal(save(format, tmp_path / "b", {"b_enc": None}))
    assert "no tensor" in refusal(save(format, tmp_path / "w", {"W_enc": None}))


@pytest.mark.parametrize(
    ("config", "tensor"),
    [
        ({"apply_b_dec_to_input": True}, "b_dec"),
        ({"rescale_acts_by_decoder_norm": True}, "W_dec"),
        ({"architecture": "jumprelu"}, "threshold"),
        ({"architecture": "batchtopk"}, "topk_threshold"),
    ],
)
def test_a_tensor_that_only_the_configuration_asks_for_is_named(
    tmp_path: Path, config: dict[str, Any], tensor: str
) -> None:
    save_saelens(tmp_path, {"W_dec": None, "b_dec": None}, **config)
    assert f"no tensor '{tensor}'" in refusal(find_sae(tmp_path, 3))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "tensors",
    [
        {"W_enc": random(F)},
        {"W_enc": random(F, D, 1)},
        {"W_enc": torch.empty(F, 0)},
        {"b_enc": random(F + 1)},
        {"b_enc": random(F, 1)},
        {"b_dec": random(D + 1)},
        {"W_dec": random(D, F - 1)},
        {"W_dec": random(F, D)},
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(tmp_path: Path, format: str, tensors: dict[str, Tensor]) -> None:
    (name,) = tensors
    what = refusal(save(format, tmp_path, tensors))
    assert "has shape" in what
    assert what.startswith((name, {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}.get(name, name)))


def test_a_transposed_encoder_is_refused_for_its_bias(tmp_path: Path) -> None:
    assert "b_enc has shape (48,)" in refusal(save("qwen-scope", tmp_path, {"W_enc": random(D, F)}))


@pytest.mark.parametrize(("field", "value"), [("d_in", D + 1), ("d_sae", F * 2), ("d_in", "16")])
def test_sizes_that_cfg_json_states_otherwise_are_refused(tmp_path: Path, field: str, value: object) -> None:
    assert f"{field} = {value!r}" in refusal(save("saelens", tmp_path, **{field: value}))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["W_enc", "b_enc"])
def test_nan_and_infinity_are_refused(tmp_path: Path, format: str, bad: float, name: str) -> None:
    tensor = {"W_enc": random(F, D), "b_enc": random(F)}[name]
    tensor[-1] = bad
    assert "NaN or infinity" in refusal(save(format, tmp_path, {name: tensor}), read_encoder)


@pytest.mark.parametrize("name", ["b_dec", "W_dec", "threshold"])
def test_nan_in_what_is_folded_in_is_refused(tmp_path: Path, name: str) -> None:
    tensors = {"b_dec": random(D), "W_dec": random(F, D), "threshold": torch.ones(F)}
    tensors[name][1] = torch.nan
    kind = {"architecture": "jumprelu"} if name == "threshold" else {"rescale_acts_by_decoder_norm": True}
    save_saelens(tmp_path, tensors, apply_b_dec_to_input=True, **kind)
    assert "NaN or infinity" in refusal(find_sae(tmp_path, 3), read_encoder)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_types_than_floats_are_refused(tmp_path: Path, format: str, dtype: torch.dtype) -> None:
    sae = save(format, tmp_path, {"W_enc": torch.ones(F, D).to(dtype)})
    assert f"is {dtype}" in refusal(sae)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("k", [0, -1, F + 1, 2.5, "5", True, [5]])
def test_an_impossible_k_is_refused(tmp_path: Path, format: str, k: object) -> None:
    what = refusal(save(format, tmp_path, k=k))
    assert f"k = {k!r}" in what


def test_an_impossible_k_in_the_suites_name_is_refused(tmp_path: Path) -> None:
    for name in ("x-L0_0", "x-L0_49"):
        assert "k = " in refusal(save("qwen-scope", tmp_path / name))
    assert read_shape(save("qwen-scope", tmp_path / "x-L0_48")).k == 48


@pytest.mark.parametrize("format", ["saelens", "sparsify"])
def test_a_k_that_no_file_states_is_unknown(tmp_path: Path, format: str) -> None:
    assert read_encoder(save(format, tmp_path, k=None)).k is None


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1, 2]", '"text"', "null", "\x80", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_configuration_that_is_not_a_json_object_is_refused(tmp_path: Path, format: str, text: str) -> None:
    sae = save(format, tmp_path, k=K)
    assert sae.config is not None
    sae.config.write_bytes(text.encode("latin-1"))
    assert "JSON" in refusal(sae)
    if format == "saelens":
        with pytest.raises(AssayError, match="JSON"):
            find_sae(tmp_path, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, format: str) -> None:
    sae = save(format, tmp_path)
    whole = sae.weights.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 64, len(whole) - 1]:
        sae.weights.write_bytes(whole[:size])
        assert "file" in refusal(sae)
    sae.weights.write_bytes(whole)
    assert read_shape(sae).d_sae == F


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("content", [b"\0" * 4096, b"PK\x03\x04" + b"\0" * 100, b"\xff" * 64, b"{}" * 50])
def test_a_file_of_something_else_is_refused(tmp_path: Path, format: str, content: bytes) -> None:
    sae = save(format, tmp_path)
    sae.weights.write_bytes(content)
    assert "not a readable" in refusal(sae)


class Bomb:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "executed"
    sae = save("qwen-scope", tmp_path / "sae")
    torch.save({"W_enc": random(F, D), "b_enc": random(F), "x": Bomb(marker)}, sae.weights)
    assert "holds more than tensors" in refusal(sae)
    torch.save(Bomb(marker), sae.weights, _use_new_zipfile_serialization=False)
    assert "not a readable torch file" in refusal(sae)
    sae.weights.write_bytes(pickle.dumps(Bomb(marker)))
    assert "not a readable torch file" in refusal(sae)
    with zipfile.ZipFile(sae.weights, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(marker), protocol=2))
        archive.writestr("archive/version", "3")
    refusal(sae)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb itself must work"


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), "text"])
def test_a_torch_file_of_something_else_than_a_dict_is_refused(tmp_path: Path, content: object) -> None:
    sae = save("qwen-scope", tmp_path)
    torch.save(content, sae.weights)
    assert "expected a dict of tensors" in refusal(sae)


@pytest.mark.parametrize("W_enc", ["text", [1.0], torch.eye(F, D).to_sparse(), torch.empty(F, D, device="meta")])
def test_an_entry_that_is_not_a_plain_tensor_is_refused(tmp_path: Path, W_enc: object) -> None:
    assert "W_enc is not a plain tensor" in refusal(save("qwen-scope", tmp_path, {"W_enc": W_enc}))


def test_a_small_file_that_claims_a_huge_tensor_is_refused(tmp_path: Path) -> None:
    sae = save("qwen-scope", tmp_path, {"W_enc": torch.zeros(1).expand(10**6, 10**6), "b_enc": torch.zeros(10**6)})
    assert sae.weights.stat().st_size < 10**7
    assert "larger than the file" in refusal(sae)


def test_parameters_and_views_are_tensors_too(tmp_path: Path) -> None:
    W_enc = torch.nn.Parameter(random(D, F))
    save_qwen_scope(tmp_path, config={"k": K}, W_enc=W_enc.T, b_enc=torch.nn.Parameter(random(F)))
    weights = read_encoder(find_sae(tmp_path, 3))
    assert weights.W_enc_FD.equal(W_enc.T)
    assert not weights.b_enc_F.requires_grad


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("target", ["weights", "config"])
@pytest.mark.parametrize("kind", ["folder", "loop", "dangling", "fifo"])
def test_what_is_not_a_file_is_refused(tmp_path: Path, format: str, target: str, kind: str) -> None:
    sae = save(format, tmp_path, k=K)
    path = getattr(sae, target)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "loop" else "nowhere")
    assert "not a file" in refusal(sae)
    if target == "weights":
        assert find_sae(sae.weights.parent, 3) == sae


def test_a_hub_cache_of_links_to_blobs_is_read(tmp_path: Path) -> None:
    save_saelens(tmp_path / "blobs")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0f" / "blocks.3.hook_resid_post"
    snapshot.mkdir(parents=True)
    for name in (SAELENS, "cfg.json"):
        (snapshot / name).symlink_to(tmp_path / "blobs" / name)
    assert read_encoder(find_sae(snapshot.parent, 3)).k == K


def test_the_shape_is_read_without_the_weights(tmp_path: Path) -> None:
    for format in FORMATS:
        tensor = random(F, D)
        tensor[0, 0] = torch.nan
        assert read_shape(save(format, tmp_path / format, {"W_enc": tensor}, k=K)) == (F, D, K, "topk")
