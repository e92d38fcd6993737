"""Where memory runs out, batches are halved and the features are the same."""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch

from assay.sae_runtime.runtime import Runtime
from assay.schemas.errors import AssayError
from tests.sae_runtime.conftest import Checkpoint
from tests.sae_runtime.tiny import TEXTS, WINDOW, assert_features, tiny_scope


def gpu_is_full() -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_is_full() -> NoReturn:
    torch.empty(2**62, dtype=torch.int8)
    raise AssertionError("this machine has room for 4 EiB")


def small(runtime: Runtime, room: int, fail: Callable[[], NoReturn] = gpu_is_full) -> list[tuple[int, int]]:
    """Lets the backbone fail above `room` padded tokens a batch; returns the shapes that went through, as they do."""
    forward = runtime.backbone.model.forward
    done: list[tuple[int, int]] = []

    def limited(input_ids: torch.Tensor, **settings: Any) -> Any:
        if input_ids.numel() > room:
            fail()
        done.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **settings)

    runtime.backbone.model.forward = limited
    return done


@pytest.mark.parametrize("room", [WINDOW, 2 * WINDOW, 3 * WINDOW])
def test_batches_are_halved_until_they_fit(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture, room: int) -> None:
    runtime = Runtime(tiny_scope(checkpoint.folder), device="cpu", threads=1)
    done = small(runtime, room)
    with caplog.at_level(logging.WARNING):
        got = runtime.features(TEXTS)
    assert_features(got, checkpoint.documents(TEXTS))
    assert done
    assert max(rows * length for rows, length in done) <= room
    assert any("out of memory" in record.message and "batch_tokens" in record.message for record in caplog.records)


def test_a_batch_that_fits_is_not_halved(qwen3: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    done = small(runtime, 512)
    runtime.features(TEXTS)
    assert max(rows for rows, _ in done) >= 512 // WINDOW
    assert not caplog.records


def test_a_cpu_that_runs_out_of_memory_counts_too(qwen3: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    small(runtime, 2 * WINDOW, cpu_is_full)
    assert_features(runtime.features(TEXTS), qwen3.documents(TEXTS))


def test_out_of_memory_between_two_layers_counts_nothing_twice(
    qwen3: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    encoder = runtime.encoders[2]
    encode, failures = encoder.encode, iter([True, True, False, True])

    def failing(hidden_TD: torch.Tensor) -> Any:
        if len(hidden_TD) > WINDOW and next(failures, False):
            gpu_is_full()
        return encode(hidden_TD)

    monkeypatch.setattr(encoder, "encode", failing)
    assert_features(runtime.features(TEXTS), qwen3.documents(TEXTS))
    assert next(failures, None) is None, "the encoder was made to fail"


def test_one_window_that_does_not_fit_is_an_error_with_a_way_out(qwen3: Checkpoint) -> None:
    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    small(runtime, WINDOW - 1)
    with pytest.raises(AssayError, match=f"out of memory on cpu for one window of {WINDOW} tokens") as error:
        runtime.features(TEXTS)
    assert "window" in error.value.hint
    assert runtime.features(["the fox"]).tokens_seen.tolist() == [1], "the runtime is still of use"


def test_other_errors_are_not_taken_for_a_lack_of_memory(qwen3: Checkpoint) -> None:
    def broken() -> NoReturn:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    runtime = Runtime(tiny_scope(qwen3.folder), device="cpu", threads=1)
    small(runtime, 10, broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        runtime.features(TEXTS)
