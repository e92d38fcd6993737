"""The file of one converted encoder: plain safetensors that carry a hash of themselves, so that damage is noticed.

It holds W_enc_FD, b_enc_F, perhaps threshold_F, W_int8_FD and scale_F. Its metadata say where it comes from, and under
"sha256" the hash of the rest: header, metadata and the bytes of the tensors. Its name is its key: a file under another
name isn't believed. It appears whole or not at all.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from assay.sae_runtime.file_hash import appearing_whole, digest_from, file_sha256, sha256_from, sha256_of
from assay.sae_runtime.sae_config import Activation
from assay.sae_runtime.sae_weights import EncoderShape

FORMAT_VERSION = 1
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.int8: "I8"}
_STAMP = "sha256"
_MAX_HEADER = 2**20
_ABANDONED_SECONDS = 24 * 3600

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""tensor's name -> (dtype, shape), in the order in which they lie in the file"""

Put = Callable[[str, int, Tensor], None]
"""takes (tensor's name, its first row, rows)"""


class CachedEncoder(NamedTuple):
    """One layer's encoder, ready for use: pre = h @ W_enc_FD.T + b_enc_F. Its tensors are not to be written to."""

    W_enc_FD: Tensor
    """in the dtype that was asked for, contiguous"""
    b_enc_F: Tensor
    """fp32"""
    threshold_F: Tensor | None
    """jumprelu, fp32, >= 0: a feature is active where pre > threshold"""
    W_int8_FD: Tensor | None
    """int8 rows; W_enc_FD is W_int8_FD * scale_F[:, None] to within half of scale_F"""
    scale_F: Tensor | None
    """fp32: the row's largest magnitude / 127"""
    activation: Activation
    k: int | None
    d_sae: int
    d_model: int


def encoder_of(tensors: Mapping[str, Tensor], activation: Activation, k: int | None) -> CachedEncoder:
    """The encoder that consists of these tensors, by their names; those that are not there are None."""
    d_sae, d_model = tensors["W_enc_FD"].shape
    fields: dict[str, Any] = dict.fromkeys(("threshold_F", "W_int8_FD", "scale_F")) | dict(tensors)
    return CachedEncoder(**fields, activation=activation, k=k, d_sae=d_sae, d_model=d_model)


@contextlib.contextmanager
def writing_encoder_file(path: Path, layout: Layout, shape: EncoderShape, source: Path) -> Iterator[Put]:
    """Makes `path` appear whole after its tensors were put, and not at all when putting them raises an error.

    `source` are the weights that it is made of. Raises OSError when there is no room.
    """
    _sweep(path.parent)
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, size) in layout.items():
        start, end = end, end + dtype.itemsize * math.prod(size)
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(size), "data_offsets": [start, end]}
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "key": path.stem,
        "activation": shape.activation,
        "k": json.dumps(shape.k),
        "source": source.name,
        "source_sha256": file_sha256(source),
    }
    data_start = len(_header_bytes(header, {**metadata, _STAMP: "0" * 64}))

    with appearing_whole(path) as f:

        def put(name: str, row: int, block: Tensor) -> None:
            row_bytes = block[0].numel() * block.element_size()
            f.seek(data_start + header[name]["data_offsets"][0] + row * row_bytes)
            f.write(block.contiguous().numpy().data)

        yield put
        f.flush()
        stamp = sha256_of([header, metadata, digest_from(f.name, data_start)])
        f.seek(0)
        f.write(_header_bytes(header, {**metadata, _STAMP: stamp}))


def read_encoder_file(path: Path) -> CachedEncoder | None:
    """The encoder in a cache file, memory-mapped; None when there is none, or it isn't what was written."""
    try:
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(length) if length < _MAX_HEADER else b"")
        metadata = header.pop("__metadata__")
        stamp = metadata.pop(_STAMP)
        if metadata["key"] != path.stem or stamp != sha256_of([header, metadata, sha256_from(path, 8 + length)]):
            return None
        with safe_open(path, "pt") as f:
            tensors = {name: f.get_tensor(name) for name in header}
        return encoder_of(tensors, metadata["activation"], json.loads(metadata["k"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return None


def _header_bytes(header: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """The start of a safetensors file: the header's length, and the header, which ends at a multiple of 64 bytes."""
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text


def _sweep(folder: Path) -> None:
    """Removes what killed processes left behind."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
