"""The build of the embedded model, small: text of this machine in, a folder that plain libraries load out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from assay.sae_runtime.runtime import Runtime
from assay.sae_runtime.training import sae_stage
from assay.sae_runtime.training.__main__ import main, quick_config
from assay.sae_runtime.training.evaluate import mean_loss
from assay.sae_runtime.training.layers_run import LayersConfig
from assay.sae_runtime.training.pretrain import PretrainConfig, pretrain
from assay.sae_runtime.training.sae_stage import train_saes
from assay.sae_runtime.training.sae_trainer import SaeConfig
from assay.schemas.scope import Scope

LAYERS = (1, 3, 4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick build of few steps and little data, without labelled sets and without downloads."""
    folder = tmp_path_factory.mktemp("build")
    small = {"sae_tokens": 20_480, "sae_buffer": 8_000, "tokenizer_chars": 400_000}
    small |= {"evaluation_documents": 32, "baseline_bytes": 200_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assay.sae_runtime.training.__main__.quick_config", lambda: replace(quick_config(), **small))
        main(["--work", str(folder / "work"), "--out", str(folder / "out"), "--quick", "--steps", "6"])
    return folder


def test_plain_libraries_load_what_was_built(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(built / "out")
    tokenizer = AutoTokenizer.from_pretrained(built / "out")
    text = "def f(x):\n    return 'Zażółć gęślą jaźń 漢字 🙂'\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model(input_ids=ids).logits.isfinite().all()


def test_every_layer_has_an_sae_in_the_published_layout(built: Path) -> None:
    config = json.loads((built / "out/saes/config.json").read_text())
    assert tuple(config["layers"]) == LAYERS
    for layer in LAYERS:
        weights = torch.load(built / f"out/saes/layer{layer}.sae.pt", weights_only=True)
        D, F = config["d_model"], config["d_sae"]
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
            "W_enc": (F, D),
            "W_dec": (D, F),
            "b_enc": (F,),
            "b_dec": (D,),
        }
        assert (weights["W_dec"].float().norm(dim=0) - 1).abs().max() < 2e-3


def test_the_runtime_reads_the_build(built: Path) -> None:
    out = str(built / "out")
    scope = Scope(name="built", backbone=out, sae=f"{out}/saes", layers=LAYERS, dtype="float32")
    features = Runtime(scope, device="cpu").features(["The quick brown fox jumps over the lazy dog."])
    assert all(len(features.layers[layer].ids) > 0 for layer in LAYERS)


def test_the_record_tells_sources_losses_and_quality(built: Path) -> None:
    record = json.loads((built / "out/training.json").read_text())
    assert record["sources"]["python-stdlib"]["train_chars"] > 0
    assert record["pretraining"]["steps"] == 6
    assert record["pretraining"]["heldout_curve_step_tokens_nats"][-1][0] == 6
    for layer in LAYERS:
        row = record["metrics"]["saes"][f"layer{layer}"]
        assert 0 < row["fvu"] < 1
        assert row["ce_recovered"] > 0
    assert "Muon" in (built / "out/README.md").read_text()


def test_a_second_run_does_nothing_again(built: Path) -> None:
    stages = [*(built / "work").rglob("*.json"), *(built / "work").rglob("*.pt")]
    before = {path: path.stat().st_mtime_ns for path in stages if path.name != "build.json"}
    main(["--work", str(built / "work"), "--out", str(built / "again"), "--quick", "--steps", "6"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (built / "again/model.safetensors").read_bytes() == (built / "out/model.safetensors").read_bytes()


def test_a_quick_build_is_not_mixed_with_a_full_one(built: Path) -> None:
    with pytest.raises(SystemExit, match="quick build"):
        main(["--work", str(built / "work"), "--out", str(built / "out")])


class Killed(Exception):
    """Stands for the end of the process."""


def test_an_interrupted_training_ends_as_an_undisturbed_one(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "assay.sae_runtime.training.pretrain"
    monkeypatch.setattr(f"{module}.CHECKPOINT_SECONDS", 0.0)
    config = replace(quick_config().pretrain, steps=5)
    tokens, heldout = built / "work/tokens/train.npz", [torch.arange(20)]

    def run(out: Path) -> dict[str, torch.Tensor]:
        pretrain(tokens, [1.0] * 50, heldout, out, config)
        return AutoModelForCausalLM.from_pretrained(out).state_dict()

    undisturbed = run(built / "undisturbed")
    calls: list[int] = []

    def dies(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return mean_loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(f"{module}.mean_loss", dies)
    with pytest.raises(Killed):
        run(built / "interrupted")
    resumed = run(built / "interrupted")
    assert all(resumed[name].equal(tensor) for name, tensor in undisturbed.items())


def test_interrupted_sae_training_ends_as_an_undisturbed_one(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LayersConfig(sae=SaeConfig(d_sae=96, k=4, batch_tokens=64), tokens=640, buffer=200, batch_tokens=256)
    windows = [list(range(start, start + 40)) for start in range(0, 400, 20)]

    def run(work: Path) -> list[Path]:
        work.mkdir(exist_ok=True)
        if not (work / "lm").exists():
            (work / "lm").symlink_to(built / "work/lm")
        train_saes(work, lambda: windows, [1, 3], config)
        return [work / "saes" / f"layer{layer}.sae.pt" for layer in (1, 3)]

    undisturbed = run(built / "saes-undisturbed")
    monkeypatch.setattr(sae_stage, "CHECKPOINT_SECONDS", 0.0)
    save, calls = sae_stage.save_state, []

    def dies(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        calls.append(path)
        if len(calls) == 4:
            raise Killed

    monkeypatch.setattr(sae_stage, "save_state", dies)
    with pytest.raises(Killed):
        run(built / "saes-interrupted")
    resumed = run(built / "saes-interrupted")
    assert len(calls) > 4
    for one, other in zip(undisturbed, resumed, strict=True):
        whole, continued = (torch.load(path, weights_only=True) for path in (one, other))
        assert all(whole[name].equal(continued[name]) for name in whole)


def test_the_default_size_is_what_is_shipped() -> None:
    shipped = json.loads((Path(__file__).parents[2] / "sae_runtime/embedded/training.json").read_text())
    config = PretrainConfig()
    built = shipped["pretraining"]["config"]
    assert {name: built[name] for name in ("d_model", "layers", "d_mlp", "vocab_size")} == {
        "d_model": config.d_model,
        "layers": config.layers,
        "d_mlp": config.d_mlp,
        "vocab_size": config.vocab_size,
    }
