"""`assay train-sae`: from a backbone and a corpus to a scope that tags, resumable, honest about what it measures."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from assay.flows.cli import OK, USAGE
from assay.flows.engine import run_flow
from assay.flows.tag import tag_corpus
from assay.flows.train_sae import TrainingReport, train_sae, training_lines
from assay.schemas.errors import AssayError
from assay.schemas.parameters import TrainSaeParameters
from assay.workers.training_windows import is_held_out
from tests.checkpoints import LAYERS, save_checkpoint
from tests.flows.conftest import Cli, tag_parameters
from tests.flows.corpora import ASSAY, assay_environment, document

TEXTS = {f"doc-{n}": document(n) for n in range(80)}
SHAPE = {"d_sae": 128, "k": 8, "tokens": 8192, "batch": 128, "buffer": 1024, "window": 64}


def write_texts(folder: Path, texts: Mapping[str, str]) -> Path:
    folder.mkdir()
    lines = "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items())
    (folder / "a.jsonl").write_text(lines, "utf-8")
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "model"
    save_checkpoint(folder, "qwen3")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "corpus", TEXTS)


def parameters(backbone: Path | str, corpus: Path | str, out: Path | str, **changes: object) -> TrainSaeParameters:
    values = {"backbone": str(backbone), "corpus": str(corpus), "out": str(out), "layers": (1, 3), "id_column": "id"}
    return TrainSaeParameters.model_validate({**values, **SHAPE, "device": "cpu", "threads": 1, **changes})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name} {name}": tensor
        for path in sorted(out.glob("layer*.sae.pt"))
        for name, tensor in torch.load(path, weights_only=True).items()
    }


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    assert one
    assert set(one) == set(other)
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def trained(backbone: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingReport]:
    """The output folder of an undisturbed training, and its report."""
    out = tmp_path_factory.mktemp("trained") / "out"
    return out, run_flow(train_sae, parameters(backbone, corpus, out))


def test_what_was_trained_tags_a_corpus(
    trained: tuple[Path, TrainingReport], corpus: Path, tmp_path: Path, ray_cluster: None
) -> None:
    out, report = trained
    tagged = run_flow(tag_corpus, tag_parameters(corpus, tmp_path / "store", Path(report.scope), shard_mb=1.0))
    assert tagged.manifest is not None
    assert tagged.manifest.rows_kept == len(TEXTS)
    identity = json.loads(next((tmp_path / "store").glob("features/*/identity.json")).read_bytes())
    assert (identity["encoder"]["d_sae"], identity["encoder"]["k"]) == (SHAPE["d_sae"], SHAPE["k"])
    assert identity["encoder"]["layers"] == [1, 3]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "layer1.sae.pt", "layer3.sae.pt", "parameters.json", "scope.yaml", "training.json"
    ]  # fmt: skip


def test_the_report_says_how_good_it_is_where_it_lies_and_how_to_use_it(trained: tuple[Path, TrainingReport]) -> None:
    out, report = trained
    record = json.loads((out / "training.json").read_bytes())
    assert set(record["held_out"]) == {"1", "3"}
    for row in record["held_out"].values():
        assert 0 < row["fvu"] < 1
        assert 0 < row["l0"] <= SHAPE["k"]
        assert 0 <= row["dead_share"] < 1
        assert row["ce_clean"] > 0
    lines = "\n".join(training_lines(report))
    assert f"--scope {out}/scope.yaml" in lines
    assert "layer 3" in lines


def test_a_killed_training_continues_to_the_weights_of_an_undisturbed_one(
    trained: tuple[Path, TrainingReport], backbone: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPE.items()]
    command = [ASSAY, "train-sae", "--backbone", backbone, "--layers", 1, 3, "--corpus", corpus, "--out", out,
               "--id-column", "id", "--device", "cpu", "--threads", 1, "--checkpoint-minutes", 0, *flags]  # fmt: skip
    environment = assay_environment(tmp_path / "home")
    with (tmp_path / "log").open("wb") as log:
        training = subprocess.Popen([*map(str, command)], env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not (out / "checkpoint.pt").exists():
            assert training.poll() is None, (tmp_path / "log").read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(training.pid, signal.SIGKILL)
        training.wait()
    assert not (out / "training.json").exists()
    done = torch.load(out / "checkpoint.pt", weights_only=True)["run"]["step"]
    assert 0 < done < SHAPE["tokens"] // SHAPE["batch"]
    run_flow(train_sae, parameters(backbone, corpus, out))
    assert same(out, trained[0])
    assert not (out / "checkpoint.pt").exists()


def test_a_finished_training_is_not_done_again(
    trained: tuple[Path, TrainingReport], backbone: Path, corpus: Path
) -> None:
    out, report = trained
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = run_flow(train_sae, parameters(backbone, corpus, out))
    assert again == report._replace(done_before=True)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [({"k": 4}, "k was 8 and is 4"), ({"seed": 12}, "seed was 11 and is 12"), ({"layers": (1,)}, "layers was [1, 3]")],
)
def test_other_parameters_in_the_same_folder_are_refused_by_name(
    change: dict[str, object], difference: str, trained: tuple[Path, TrainingReport], backbone: Path, corpus: Path
) -> None:
    with pytest.raises(AssayError) as e:
        run_flow(train_sae, parameters(backbone, corpus, trained[0], **change))
    assert difference in str(e.value)


def test_another_corpus_in_the_same_folder_is_refused(
    trained: tuple[Path, TrainingReport], backbone: Path, tmp_path: Path
) -> None:
    other = write_texts(tmp_path / "corpus", {"a": "the quick brown fox", **TEXTS})
    with pytest.raises(AssayError, match="documents was"):
        run_flow(train_sae, parameters(backbone, other, trained[0]))


def test_what_held_out_documents_say_changes_no_weight(
    trained: tuple[Path, TrainingReport], backbone: Path, tmp_path: Path
) -> None:
    assert any(map(is_held_out, TEXTS))
    texts = {name: "other words entirely " * 30 if is_held_out(name) else text for name, text in TEXTS.items()}
    report = run_flow(train_sae, parameters(backbone, write_texts(tmp_path / "corpus", texts), tmp_path / "out"))
    assert same(tmp_path / "out", trained[0])
    assert report.layers != trained[1].layers


def test_a_saelens_suite_is_trained_and_found_by_its_scope(
    trained: tuple[Path, TrainingReport], backbone: Path, corpus: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    report = run_flow(train_sae, parameters(backbone, corpus, tmp_path / "out", format="saelens"))
    assert report.layers == trained[1].layers
    for layer in (1, 3):
        found = load_file(tmp_path / f"out/blocks.{layer}.hook_resid_post/sae_weights.safetensors")
        config = json.loads((tmp_path / f"out/blocks.{layer}.hook_resid_post/cfg.json").read_bytes())
        # SAELens 6 ignores the metadata of a configuration that doesn't say that it is of version 6.
        assert config["metadata"]["sae_lens_version"].startswith("6.")
        assert config["metadata"]["hook_name"] == f"blocks.{layer}.hook_resid_post"
        mine = torch.load(trained[0] / f"layer{layer}.sae.pt", weights_only=True)
        assert torch.equal(found["W_enc"], mine["W_enc"].T)
        assert torch.equal(found["W_dec"], mine["W_dec"].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1, LAYERS)}, f"layer {LAYERS} asked for, but the backbone has {LAYERS}"),
        ({"layers": (3, 1)}, "distinct, ascending"),
        ({"k": 129}, "k is 129, but an SAE has only 128 features"),
        ({"expansion": 4}, "both --expansion and --d-sae"),
        ({"backbone": "no-such-model"}, "no such backbone: 'no-such-model'"),
        ({"corpus": "no-such-corpus"}, "no-such-corpus: no such file or folder"),
        ({"device": "gpu"}, "no such device: 'gpu'"),
        ({"tokens": 100}, "tokens must be at least one batch"),
        ({"out": "s3://bucket/saes"}, "must be a local folder"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    change: dict[str, object], message: str, backbone: Path, corpus: Path, tmp_path: Path
) -> None:
    values = parameters(backbone, corpus, tmp_path / "out").model_copy(update=change)
    with pytest.raises(AssayError) as e:
        run_flow(train_sae, values)
    assert message in str(e.value)
    assert not list(tmp_path.iterdir())


def test_a_corpus_without_text_is_an_error_that_names_the_column(backbone: Path, tmp_path: Path) -> None:
    empty = write_texts(tmp_path / "corpus", {"the quick brown fox": "", "jumps over": " "})
    with pytest.raises(AssayError, match="no document to train on") as e:
        run_flow(train_sae, parameters(backbone, empty, tmp_path / "out"))
    assert "--text-column" in str(e.value)
    mended = parameters(backbone, empty, tmp_path / "out", text_column="id")
    assert run_flow(train_sae, mended.model_copy(update={"batch": 2, "tokens": 2, "k": 1})).tokens == 2


def test_a_folder_with_other_files_is_not_written_to(backbone: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(AssayError, match="not empty"):
        run_flow(train_sae, parameters(backbone, corpus, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_takes_several_layers_and_exits_with_2_on_a_mistake(
    cli: Cli, trained: tuple[Path, TrainingReport], backbone: Path, corpus: Path
) -> None:
    flags = [part for name, value in SHAPE.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = ["train-sae", "--backbone", backbone, "--corpus", corpus, "--out", trained[0], "--id-column", "id",
               "--device", "cpu", *flags]  # fmt: skip
    ran = cli(*command, "--layers", 1, 3)
    assert ran.code == OK, ran
    assert f"assay tag CORPUS --store STORE --scope {trained[0]}/scope.yaml" in ran.out
    assert cli(*command, "--layers", 1, 9).code == USAGE
