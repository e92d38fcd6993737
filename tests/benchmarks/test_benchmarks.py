"""The benchmark's own claims: its documents, its floor, that the rivals agree, and that a wrong one gets no ratio."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import runtime
from benchmarks.agreement import TOLERANCE, compare
from benchmarks.checkpoint import write_backbone, write_saes
from benchmarks.documents import KINDS, Kind, Writer
from benchmarks.floor import Rates, Work, work
from benchmarks.measure import Contest
from benchmarks.rivals import RIVALS, VARIANTS
from benchmarks.rivals.base import Task, Weights, cut, load
from benchmarks.shapes import small

D_SAE, WINDOW, OVERLAP = 1024, 128, 16
SHAPE = small(128, 4, 1024, (D_SAE,), 8)


@pytest.fixture(autouse=True)
def own_cache_and_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("benchmark")
    return Task(
        backbone=write_backbone(folder, SHAPE, dtype="float32", device="cpu"),
        saes=write_saes(folder, SHAPE, D_SAE, (1, 3), device="cpu", distinct=None),
        layers=(1, 3),
        d_sae=D_SAE,
        k=SHAPE.k,
        window=WINDOW,
        overlap=OVERLAP,
        batch_tokens=512,
        device="cpu",
        dtype="float32",
    )


@pytest.fixture(scope="module")
def weights(task: Task) -> Weights:
    return Weights(task)


@pytest.fixture(scope="module")
def writer(task: Task) -> Writer:
    return Writer(task.backbone, WINDOW)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_each_time_and_as_long_as_it_says(weights: Weights, writer: Writer, kind: Kind) -> None:
    sample = writer.sample(kind, 2000, 2)
    assert sample == writer.sample(kind, 2000, 2)
    assert [len(ids) for ids in weights.tokenizer([d.text for d in sample])["input_ids"]] == [d.tokens for d in sample]


def test_tweets_are_short_web_pages_fit_a_window_and_books_take_several(task: Task, writer: Writer) -> None:
    assert all(d.tokens <= 40 for d in writer.sample("tweets", 2000))
    assert all(d.tokens <= WINDOW for d in writer.sample("web", 5000))
    assert all(len(cut(0, [0] * d.tokens, task)) > 1 for n in (1, 2000, 9000) for d in writer.sample("books", n))


def test_windows_count_every_token_but_the_first_once(task: Task) -> None:
    ids = list(range(3 * WINDOW))
    counted = [token for window in cut(0, ids, task) for token in window.ids[window.counted_from :]]
    assert counted == ids[1:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["hooks", "expert", "ours"])
def test_all_give_the_features_of_the_model_cards_script(
    task: Task, weights: Weights, writer: Writer, name: str, kind: Kind
) -> None:
    texts = [document.text for document in writer.sample(kind, 600, 2)]
    reference = RIVALS["card"].load(task, weights).features(texts)
    rival = (RIVALS | VARIANTS)[name].load(task, weights)
    agreement = compare(reference, rival.features(texts), TOLERANCE["float32"])
    assert agreement.entries > 500
    assert agreement.problem(TOLERANCE["float32"]) is None


@pytest.mark.parametrize(
    "wrong", [{"k": SHAPE.k - 1}, {"overlap": OVERLAP + 8}, {"layers": (1, 2)}], ids=["k", "overlap", "layer"]
)
def test_a_rival_with_other_features_gets_no_ratio(
    task: Task, weights: Weights, writer: Writer, wrong: dict[str, object]
) -> None:
    write_saes(task.saes.parent, SHAPE, D_SAE, (2,), device="cpu", distinct=None)
    rivals = {
        "card": RIVALS["card"].load(task, weights),
        "expert": RIVALS["expert"].load(dataclasses.replace(task, **wrong), weights),
        "ours": VARIANTS["ours"].load(task, weights),
    }
    contest = Contest(rivals, writer, dtype="float32", device="cpu")
    cell = contest.measure("books", repeats=2, seconds=0.1, tell=lambda _: None)
    assert cell.contenders["expert"].problem is not None
    assert cell.ratio("expert") is None
    assert cell.ratio("card") is not None


def test_a_rival_that_is_too_slow_for_its_cell_is_run_once_and_compared_with_ours_first_run(
    task: Task, weights: Weights, writer: Writer
) -> None:
    rivals = {"card": RIVALS["card"].load(task, weights), "ours": VARIANTS["ours"].load(task, weights)}
    contest = Contest(rivals, writer, dtype="float32", device="cpu")
    cell = contest.measure("web", repeats=2, seconds=1e-9, tell=lambda _: None)
    (card,), (ours, _) = cell.contenders["card"].runs, cell.contenders["ours"].runs
    assert cell.ratio("card") == (card.seconds / ours.seconds,) * 3


def test_the_floors_operations_are_those_that_torch_counts(task: Task) -> None:
    """Torch counts whole attention, the floor the half that is causal."""
    model = load(transformers.AutoModel, task, attn_implementation="eager")
    n = 64
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=torch.zeros(1, n, dtype=torch.long), use_cache=False)
    attention = sum(f for op, f in counter.get_flop_counts()["Global"].items() if op == torch.ops.aten.bmm)
    assert attention > 0
    causal = counter.get_total_flops() - attention + attention * (n + 1) / (2 * n)
    least = work(SHAPE, [SHAPE.depth - 1], D_SAE, windows=[n], counted=n - 1, item=4)
    assert least.backbone_flops == pytest.approx(causal, rel=1e-3)
    assert least.sae_flops == 2 * SHAPE.hidden * D_SAE * (n - 1)


def test_the_floor_is_the_longer_of_arithmetic_and_memory_traffic() -> None:
    rates = Rates(backbone=10.0, sae=5.0, memory=1.0)
    assert Work(100.0, 50.0, 3.0).seconds(rates) == 20.0
    assert Work(100.0, 50.0, 30.0).seconds(rates) == 30.0


def test_one_command_writes_a_record_and_a_page_that_say_who_was_not_measured(tmp_path: Path, capsys) -> None:
    out = tmp_path / "result.json"
    sizes = ["--hidden", "128", "--depth", "3", "--vocab", "1024", "--d-sae", "1024", "--k", "8", "--window", "128"]
    grid = ["--overlap", "16", "--layers", "one", "--documents", "tweets", "--rivals", "expert", "vllm"]
    how = ["--no-loading", "--device", "cpu", "--seconds", "0.1", "--repeats", "2", "--threads", "1"]
    runtime.main([*sizes, *grid, *how, "--out", str(out)])
    record = json.loads(out.read_text("utf-8"))
    (cell,) = record["cells"]
    assert len(cell["results"]["ours"]["seconds"]) == 2
    ratio = cell["results"]["expert"]["ratio_to_ours"]
    assert ratio["least"] <= ratio["median"] <= ratio["most"]
    assert cell["results"]["vllm"]["problem"] == "needs a GPU"
    page = out.with_suffix(".md").read_text("utf-8")
    assert page == capsys.readouterr().out
    assert f"| {ratio['median']:.2f} (" in page
    assert "| vllm | not measured |" in page
    assert ("Where ours is slower than a rival: nowhere." in page) == (
        min(cell["results"][name]["ratio_to_ours"]["median"] for name in ("card", "expert")) >= 1
    )
