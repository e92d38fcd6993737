"""The command line, and the grid that it asks for."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from assay.schemas.scope import Scope
from benchmarks.documents import KINDS, Kind
from benchmarks.rivals import REFERENCE, RIVALS
from benchmarks.shapes import HOOKED, PUBLISHED, Hooked, Shape, small


class Place(NamedTuple):
    """One cell of the grid."""

    shape: Shape
    d_sae: int
    hooked: Hooked
    documents: Kind

    def __str__(self) -> str:
        return f"{self.shape.name}, {self.hooked} hooked, d_sae {self.d_sae:,}, {self.documents}"


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What to measure and how, with the defaults that depend on the device filled in."""

    places: tuple[Place, ...]
    """cells with the same weights follow each other"""
    rivals: tuple[str, ...]
    rivals_named: bool
    """whether the user chose them: then they are measured at every width"""
    scope: dict[str, str]
    """fields of ours' scope that differ from the task's"""
    auto_dtype: bool
    loading: bool
    window: int
    overlap: int
    batch_tokens: int
    seed: int
    device: str
    dtype: str
    threads: int
    repeats: int
    seconds: float
    work: Path | None
    out: Path | None


def parse(arguments: Sequence[str] | None) -> Options:
    """Options from a command line (by default this process's); exits with a message where it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    scope = dict(field.partition("=")[::2] for field in given.scope)
    if strangers := sorted(set(scope) - set(Scope.model_fields)):
        parser.error(f"--scope has no field {', '.join(strangers)}; it has {', '.join(Scope.model_fields)}")
    gpu = given.device.startswith("cuda")
    return Options(
        places=tuple(_places(given, gpu)),
        rivals=tuple(given.rivals or RIVALS),
        rivals_named=given.rivals is not None,
        scope=scope,
        auto_dtype=given.auto_dtype,
        loading=given.loading and not given.quick,
        window=given.window or (4096 if gpu else 1024),
        overlap=given.overlap or (256 if gpu else 128),
        batch_tokens=given.batch_tokens or (16_384 if gpu else 4096),
        seed=given.seed,
        device=given.device,
        dtype=given.dtype or ("bfloat16" if gpu else "float32"),
        threads=given.threads,
        repeats=given.repeats,
        seconds=given.seconds or (10.0 if given.quick else 20.0),
        work=given.work,
        out=given.out,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtime",
        description="Measures the runtime beside its rivals: same documents, weights, machine and precision, in turn.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    grid = parser.add_argument_group("what is measured")
    grid.add_argument("--quick", action="store_true", help="four corners of the grid, and nothing of loading")
    grid.add_argument("--layers", nargs="+", choices=HOOKED, default=list(HOOKED), help="how many layers are hooked")
    grid.add_argument("--documents", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of documents")
    grid.add_argument("--rivals", nargs="+", choices=RIVALS, help=f"{REFERENCE} always runs: it is the reference")
    grid.add_argument("--auto-dtype", action="store_true", help='a line for ours with dtype "auto", another precision')
    grid.add_argument("--no-loading", dest="loading", action="store_false", help="leave out start-up and memory")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--shape", nargs="+", choices=["small", *PUBLISHED], help="small on a CPU, else the published")
    sizes.add_argument("--hidden", type=int, default=512, help="width of the small backbone")
    sizes.add_argument("--depth", type=int, default=8, help="decoder layers of the small backbone")
    sizes.add_argument("--vocab", type=int, default=8192, help="of the small backbone")
    sizes.add_argument("--k", type=int, default=50, help="active features a token, with the small backbone")
    sizes.add_argument("--d-sae", nargs="+", type=int, help="SAE widths; 4096 32768 131072 with the small backbone")
    sizes.add_argument("--window", type=int, help="1024 tokens, on a GPU 4096")
    sizes.add_argument("--overlap", type=int, help="128 tokens, on a GPU 256")
    sizes.add_argument("--batch-tokens", type=int, help="for those who batch by tokens: 4096, on a GPU 16384")
    how = parser.add_argument_group("how")
    how.add_argument("--scope", nargs="+", default=[], metavar="FIELD=VALUE", help="of ours: compile=true, exact=true")
    how.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:N")
    how.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32, on a GPU bfloat16")
    how.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, for everyone")
    how.add_argument("--repeats", type=int, default=3, help="fewer where even the smallest sample takes very long")
    how.add_argument("--seconds", type=float, help="of a cell, for all rivals and repetitions: 20, with --quick 10")
    how.add_argument("--seed", type=int, default=0, help="of the documents")
    how.add_argument("--work", type=Path, help="keep the weights here for the next run; else a temporary folder")
    how.add_argument("--out", type=Path, help="JSON, with the page beside it; else benchmarks/results/")
    return parser


def _places(given: argparse.Namespace, gpu: bool) -> list[Place]:
    names = given.shape or (list(PUBLISHED) if gpu else ["small"])
    shapes = [_shape(name, given) for name in names]
    if not given.quick:
        return [
            Place(shape, d_sae, hooked, documents)
            for shape in shapes
            for d_sae in shape.d_sae
            for hooked in given.layers
            for documents in given.documents
        ]
    shape = shapes[0]
    low, high = min(shape.d_sae), max(shape.d_sae)
    corners: list[tuple[int, Hooked, Kind]] = [
        (low, "one", "web"),
        (low, "all", "books"),
        (high, "one", "web"),
        (high, "all", "tweets"),
    ]
    return [Place(shape, *corner) for corner in corners]


def _shape(name: str, given: argparse.Namespace) -> Shape:
    if name == "small":
        widths = tuple(given.d_sae or (4096, 32_768, 131_072))
        return small(given.hidden, given.depth, given.vocab, widths, given.k)
    published = PUBLISHED[name]
    return published if given.d_sae is None else dataclasses.replace(published, d_sae=tuple(given.d_sae))
