"""Training an SAE: it finds planted directions, its files mean what Qwen-Scope's do, and it resumes exactly."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.runtime import Runtime
from assay.sae_runtime.training.held_out import fidelity
from assay.sae_runtime.training.layers_run import LayersConfig, LayersRun
from assay.sae_runtime.training.residual_stream import Place, ResidualStream
from assay.sae_runtime.training.sae_layouts import write_saes
from assay.sae_runtime.training.sae_trainer import SaeConfig, SaeTrainer, SaeWeights, topk_acts
from assay.sae_runtime.training.shuffle_buffer import ShuffleBuffer
from assay.sae_runtime.windows import Window, cut_windows
from tests.checkpoints import VOCAB
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import TEXTS, tiny_scope

SAE = SaeConfig(d_sae=96, k=4, aux_k=16, dead_after_tokens=2000, batch_tokens=128)
LAYERS = (1, 3)
RUN = LayersConfig(sae=SAE, tokens=128 * 24, buffer=1024, batch_tokens=256)
CPU = torch.device("cpu")


def few_directions(count: int, seed: int = 0) -> Tensor:
    """hidden_ND that are sums of 2 of 16 directions in 32 dimensions, far from the origin, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    directions_FD = torch.randn(16, 32, generator=torch.Generator().manual_seed(9))
    directions_FD /= directions_FD.norm(dim=1, keepdim=True)
    chosen_NK = torch.rand(count, 16, generator=generator).topk(2, dim=1).indices
    acts_NF = torch.zeros(count, 16).scatter(1, chosen_NK, 1 + torch.rand(count, 2, generator=generator))
    return 40 * (acts_NF @ directions_FD + 0.01 * torch.randn(count, 32, generator=generator)) + 25


def fvu(hidden_ND: Tensor, sae: SaeWeights, k: int) -> float:
    acts_NF = topk_acts(hidden_ND @ sae["W_enc"].T + sae["b_enc"], k)
    error = hidden_ND - acts_NF @ sae["W_dec"].T - sae["b_dec"]
    return float(error.pow(2).sum() / (hidden_ND - hidden_ND.mean(0)).pow(2).sum())


def equal(a: dict[int, SaeWeights], b: dict[int, SaeWeights]) -> bool:
    return all(torch.equal(tensor, b[layer][name]) for layer, sae in a.items() for name, tensor in sae.items())


def reloaded(state: dict[str, Any]) -> dict[str, Any]:
    """A state after its way through a file that may hold no code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def trained(hidden_ND: Tensor, passes: int) -> SaeWeights:
    """An SAE after that many passes over the rows, which are in no order."""
    trainer = SaeTrainer(hidden_ND, SAE)
    batches = [batch for _ in range(passes) for batch in hidden_ND.split(SAE.batch_tokens)]
    for number, batch_TD in enumerate(batches):
        trainer.step(batch_TD, number / len(batches))
    return trainer.weights()


def test_few_planted_directions_are_found_and_rebuild_raw_residuals_that_were_not_trained_on() -> None:
    sae = trained(few_directions(20_000), passes=4)
    assert fvu(few_directions(2000, seed=1), sae, SAE.k) < 0.1


def test_decoder_columns_keep_unit_length() -> None:
    sae = trained(few_directions(2000), passes=1)
    torch.testing.assert_close(sae["W_dec"].norm(dim=0), torch.ones(SAE.d_sae))


def test_the_scale_of_the_residuals_changes_the_biases_and_nothing_else() -> None:
    hidden_ND = few_directions(3000)
    saes = []
    for factor in (1.0, 64.0):
        trainer = SaeTrainer(factor * hidden_ND, SAE)
        for step, batch_TD in enumerate(hidden_ND.split(SAE.batch_tokens)):
            trainer.step(factor * batch_TD, step / 24)
        saes.append(trainer.weights())
    one, large = saes
    torch.testing.assert_close(one["W_enc"], large["W_enc"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(64 * one["b_dec"], large["b_dec"], rtol=1e-3, atol=1e-2)


def test_features_that_never_fire_are_counted_as_dead() -> None:
    config = SaeConfig(d_sae=96, k=1, aux_k=16, dead_after_tokens=500, batch_tokens=128, aux_coefficient=0.0)
    trainer = SaeTrainer(few_directions(1000), config)
    same_TD = few_directions(1) + 0.01 * torch.randn(128, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        trainer.step(same_TD, 0.0)
    assert trainer.dead_share() == 0
    for _ in range(3):
        trainer.step(same_TD, 0.0)
    assert trainer.dead_share() > 0.9


def test_a_buffer_gives_every_row_once_and_mixes_them() -> None:
    groups = iter(torch.arange(600.0).half().split(70))
    buffer = ShuffleBuffer(200, {0: 1, 1: 1}, seed=3, device=CPU)
    given: list[float] = []

    def read() -> dict[int, Tensor] | None:
        rows_T = next(groups, None)
        return None if rows_T is None else {0: rows_T[:, None], 1: -rows_T[:, None]}

    while True:
        buffer.fill(read, 10**9)
        if not len(buffer):
            break
        assert len(buffer) <= 200
        rows = buffer.take(90)
        assert torch.equal(rows[0], -rows[1])
        given += rows[0].flatten().tolist()
    assert sorted(given) == list(range(600))
    assert given[:90] != sorted(given[:90])


def windows_of(text_lengths: list[int], *, behind: Place = ()) -> Iterator[tuple[Place, Window]]:
    """Random documents of twelve words, the same each time, for ever."""
    n = behind[0] if behind else 0
    while True:
        draw = torch.Generator().manual_seed(n)
        ids = torch.randint(VOCAB - 12, VOCAB, (text_lengths[n % len(text_lengths)],), generator=draw).tolist()
        n += 1
        for window in cut_windows(n, ids, 64, 8):
            yield (n,), window


def source(behind: Place) -> Iterator[tuple[Place, Window]]:
    return windows_of([50, 9, 33, 64], behind=behind)


@pytest.fixture
def backbone(qwen3: Checkpoint) -> Backbone:
    return Backbone(qwen3.folder / "model", LAYERS, dtype=torch.float32, device=CPU)


def test_the_stream_gives_each_token_that_the_runtime_counts_and_no_other(backbone: Backbone) -> None:
    documents = [(place, w) for place, w in zip(range(1, 5), (w for _, w in source(())), strict=False)]
    stream = ResidualStream(
        backbone, lambda _: iter([((n,), w) for n, w in documents]), batch_tokens=256, norm_outlier=1e9
    )
    rows = stream.read()
    assert rows is not None
    assert stream.read() is None
    assert stream.place == (4,)
    want = {layer: [] for layer in LAYERS}
    for _, window in documents:
        for layer, hidden_BTD in backbone.residuals(torch.tensor([window.ids])).items():
            want[layer].append(hidden_BTD[0, max(1, window.fresh) :])
    for layer in LAYERS:
        hidden_TD = torch.cat(want[layer])
        assert rows[layer].shape == hidden_TD.shape
        torch.testing.assert_close(rows[layer].float().sum(0), hidden_TD.sum(0), rtol=1e-2, atol=0.5)


def test_a_norm_outlier_at_one_layer_is_left_out_at_all(backbone: Backbone) -> None:
    _, window = next(source(()))
    norms = [hidden[0, 1:].norm(dim=-1) for hidden in backbone.residuals(torch.tensor([window.ids])).values()]
    limit = 1.1
    kept = sum(bool(all(n[i] <= limit * n.median() for n in norms)) for i in range(len(window.ids) - 1))
    assert 0 < kept < len(window.ids) - 1
    stream = ResidualStream(backbone, lambda _: iter([((1,), window)]), batch_tokens=256, norm_outlier=limit)
    rows = stream.read()
    assert rows is not None
    assert {len(hidden_TD) for hidden_TD in rows.values()} == {kept}


@pytest.mark.parametrize("stop", [1, 7, 16, 23])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(backbone: Backbone, stop: int) -> None:
    undisturbed = LayersRun(backbone, source, RUN)
    while not undisturbed.finished:
        undisturbed.step()
    first = LayersRun(backbone, source, RUN)
    for _ in range(stop):
        first.step()
    state = reloaded(first.state_dict())
    first.step()  # the state must not change with the run that it was taken from
    resumed = LayersRun(backbone, source, RUN, state)
    while not resumed.finished:
        resumed.step()
    assert equal(undisturbed.weights(), resumed.weights())


def test_every_layer_learns_from_one_pass(backbone: Backbone) -> None:
    run = LayersRun(backbone, source, replace(RUN, tokens=128 * 100))
    first = {layer: value.item() for layer, value in run.step().fvu.items()}
    while not run.finished:
        last = run.step()
    assert last.tokens == 128 * 100
    assert all(last.fvu[layer].item() < 0.9 * first[layer] for layer in LAYERS)


def test_each_supported_family_can_be_trained_on(checkpoint: Checkpoint) -> None:
    backbone = Backbone(checkpoint.folder / "model", LAYERS, dtype=torch.float32, device=CPU)
    run = LayersRun(backbone, source, replace(RUN, tokens=128 * 4))
    while not run.finished:
        found = run.step()
    assert all(value.isfinite() for value in found.fvu.values())


def test_fidelity_summed_over_a_stream_is_that_of_all_tokens_at_once(backbone: Backbone) -> None:
    run = LayersRun(backbone, source, RUN)
    saes = run.weights()
    stream = ResidualStream(backbone, source, batch_tokens=32, norm_outlier=10.0)
    found = fidelity(stream, saes, SAE.k, 1500)
    again = ResidualStream(backbone, source, batch_tokens=32, norm_outlier=10.0)
    parts: list[dict[int, Tensor]] = []
    while sum(len(part[1]) for part in parts) < 1500:
        part = again.read()
        assert part is not None
        parts.append(part)
    for layer in LAYERS:
        hidden_TD = torch.cat([part[layer] for part in parts]).float()
        assert found[layer].tokens == len(hidden_TD)
        assert found[layer].fvu == pytest.approx(fvu(hidden_TD, saes[layer], SAE.k), rel=1e-4)
        acts_TF = topk_acts(hidden_TD @ saes[layer]["W_enc"].T + saes[layer]["b_enc"], SAE.k)
        assert found[layer].l0 == pytest.approx(float((acts_TF > 0).sum(1).float().mean()))
        assert found[layer].dead_share == pytest.approx(float(((acts_TF > 0).sum(0) == 0).float().mean()), abs=1e-6)


def test_both_layouts_give_the_same_features(backbone: Backbone, qwen3: Checkpoint, tmp_path: Path) -> None:
    run = LayersRun(backbone, source, RUN)
    for _ in range(5):
        run.step()
    found = []
    for layout in ("qwen-scope", "saelens"):
        write_saes(run.weights(), tmp_path / layout, layout, k=SAE.k, backbone="tiny")
        scope = tiny_scope(qwen3.folder, sae=str(tmp_path / layout), layers=LAYERS)
        found.append(Runtime(scope, device="cpu", threads=1).features(TEXTS))
    one, other = found
    for layer in LAYERS:
        assert len(one.layers[layer].ids)
        for column in ("offsets", "ids", "max", "mean", "count"):
            assert (getattr(one.layers[layer], column) == getattr(other.layers[layer], column)).all()
