"""The kernel's results in Triton's interpreter, and its compilation for Hopper.

Triton decides at import whether it interprets, so either is done in a process of its own.
"""

import importlib.util
import multiprocessing
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.sae_runtime.test_topk import ExactTopKContract, Select, assert_exact, noise

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

EM_CUDA = 190

Layout = tuple[tuple[int, ...], tuple[int, ...], int]


def triton_process(interpret: str, cache: Path) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=set_environment, initargs=(interpret, str(cache))
    )


def set_environment(interpret: str, cache: str) -> None:
    os.environ.update(TRITON_INTERPRET=interpret, TRITON_CACHE_DIR=cache)
    torch.set_num_threads(1)


def interpret(memory: np.ndarray, layout: Layout, k: int) -> tuple[np.ndarray, np.ndarray]:
    from assay.sae_runtime.topk_triton import triton_topk

    values, ids = triton_topk(torch.from_numpy(memory).as_strided(*layout), k)
    return values.numpy(), ids.numpy()


def compile_for_hopper(width: int, k: int) -> tuple[str, bytes]:
    """(PTX, cubin) of the kernel as a launch on rows of `width` would have it compiled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from assay.sae_runtime.topk_triton import block_sizes, topk_kernel

    sizes = block_sizes(width, k)
    options = {"num_warps": sizes.pop("num_warps")}
    types = {
        "pre_ptr": "*fp32",
        "values_ptr": "*fp32",
        "ids_ptr": "*i64",
        "scratch_ptr": "*i32",
        "overflow_ptr": "*i32",
    }
    types |= {"width": "i32", "row_stride": "i64" if width > 2**17 else "i32", "k": "i32"}
    constants = sizes | {name: 1 for name, value in [("k", k), ("width", width)] if value == 1}
    aligned = [name for name in types if name.endswith("_ptr") or (name != "k" and width % 16 == 0)]
    source = ASTSource(
        topk_kernel,
        types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(topk_kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return compiled.asm["ptx"], compiled.asm["cubin"]


class TestTritonInterpreted(ExactTopKContract):
    @pytest.fixture(scope="class")
    def select(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Select]:
        with triton_process("1", tmp_path_factory.mktemp("triton")) as process:

            def in_interpreter(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
                memory = pre.as_strided((pre.untyped_storage().nbytes() // 4,), (1,), 0).numpy()
                layout = (tuple(pre.shape), pre.stride(), int(pre.storage_offset()))
                values, ids = process.submit(interpret, memory, layout, k).result(timeout=300)
                return torch.from_numpy(values), torch.from_numpy(ids)

            yield in_interpreter

    def test_a_row_with_more_candidates_than_slots_is_done_again(self, select: Select) -> None:
        pre = noise(3, 32768, seed=20)
        pre[1] = torch.arange(32768.0)
        pre[1].view(-1, 1024, 8)[:, 60:] = -1.0
        assert_exact(pre, 50, select(pre, 50))

    def test_a_row_with_more_tied_groups_than_listed_is_done_again(self, select: Select) -> None:
        pre = noise(3, 32768, seed=21).clamp(max=2.0)
        late_in_low_groups = pre[1].view(-1, 1024, 8)
        late_in_low_groups[-1, :100, 0] = 3.0
        late_in_low_groups[0, 500:600, 0] = 3.0
        assert_exact(pre, 50, select(pre, 50))


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    with triton_process("0", tmp_path_factory.mktemp("triton")) as process:
        yield process


@pytest.mark.parametrize(
    ("width", "k"), [(32768, 50), (131072, 100), (65536, 512), (3072, 32), (1000, 16), (8191, 50), (5000, 1), (1, 1)]
)
def test_the_kernel_compiles_to_machine_code_for_hopper(compiler: ProcessPoolExecutor, width: int, k: int) -> None:
    ptx, cubin = compiler.submit(compile_for_hopper, width, k).result(timeout=300)
    assert ".target sm_90" in ptx
    assert cubin[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", cubin, 18) == (EM_CUDA,)


def test_the_rows_are_read_as_vectors_of_four(compiler: ProcessPoolExecutor) -> None:
    ptx, _ = compiler.submit(compile_for_hopper, 32768, 50).result(timeout=300)
    assert "ld.global.v4" in ptx
