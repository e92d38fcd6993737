"""Encoders converted once a machine and then memory-mapped, so that its processes share one copy in memory.

    $ASSAY_CACHE, else $XDG_CACHE_HOME/assay, else ~/.cache/assay
      encoders/{key}.safetensors   one converted encoder, see encoder_file.py
      encoders/{key}.lock          held while the file is being made

The key hashes everything that decides the content: the SAE's bytes, its configuration, the dtype, the version of this
format. All of it can be deleted at any time.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from assay.sae_runtime.encoder_file import (
    FORMAT_VERSION,
    CachedEncoder,
    Layout,
    Put,
    encoder_of,
    read_encoder_file,
    writing_encoder_file,
)
from assay.sae_runtime.file_hash import cache_folder, file_sha256, sha256_of
from assay.sae_runtime.sae_files import SaeFile
from assay.sae_runtime.sae_weights import EncoderShape, EncoderWeights, read_encoder, read_shape, row_blocks
from assay.schemas.errors import AssayError

try:
    import fcntl
except ImportError:  # no such locks on Windows; see _held
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_ENCODER_DTYPES = {"float32": torch.float32, "float16": torch.float16}

_warned: set[str] = set()


class _Order(NamedTuple):
    """What is asked of the cache."""

    sae: SaeFile
    shape: EncoderShape
    dtype: str
    int8: bool

    def key(self) -> str:
        """The same for the same content only, wherever the files lie."""
        sae, config = self.sae, self.sae.config
        parts = [FORMAT_VERSION, sae.format, file_sha256(sae.weights), file_sha256(config) if config else None]
        return sha256_of([*parts, self.shape.k, self.dtype, self.int8])

    def layout(self) -> Layout:
        """The widest types first, so that each tensor lies aligned to its own size."""
        rows, matrix = (self.shape.d_sae,), (self.shape.d_sae, self.shape.d_model)
        tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "W_enc_FD": (_ENCODER_DTYPES[self.dtype], matrix),
            "b_enc_F": (torch.float32, rows),
        }
        if self.shape.activation == "jumprelu":
            tensors["threshold_F"] = (torch.float32, rows)
        if self.int8:
            tensors |= {"scale_F": (torch.float32, rows), "W_int8_FD": (torch.int8, matrix)}
        return dict(sorted(tensors.items(), key=lambda item: -item[1][0].itemsize))


def cached_encoder(sae: SaeFile, dtype: Literal["float16", "float32"], *, int8: bool = False) -> CachedEncoder:
    """The encoder of `sae`, mapped from the cache; it is converted first where the cache hasn't these very bytes.

    Converts in blocks of rows, so that at most one fp32 copy of the encoder is in memory, and that only where a format
    needs its rows scaled. Where the cache can't be used (read-only home, full disk), warns once and converts in memory.
    Raises AssayError for a file that isn't a sound SAE, or has values beyond fp16's range with dtype "float16".
    """
    order = _Order(sae, read_shape(sae), dtype, int8)
    key = order.key()
    try:
        path = cache_folder() / "encoders" / f"{key}.safetensors"
        encoder = read_encoder_file(path)
        if encoder is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _held(path.with_suffix(".lock")):
                encoder = read_encoder_file(path)
                if encoder is None:
                    if os.path.lexists(path):
                        logger.warning("encoder cache: %s is damaged, or not readable, and is made again", path)
                    _write(path, order)
                    encoder = read_encoder_file(path)
        if encoder is not None:
            return encoder
        reason = "a file that was just written reads back differently"
    except OSError as e:
        reason = e.strerror or str(e)
    _warn_once(reason)
    return _convert_in_memory(order)


def _write(path: Path, order: _Order) -> None:
    """Makes `path` appear whole; AssayError when the SAE changed meanwhile, OSError when there is no room."""
    with writing_encoder_file(path, order.layout(), order.shape, order.sae.weights) as put:
        _convert(order, put)
        if order.key() != path.stem:
            raise AssayError("the SAE changed while it was read", where=str(order.sae.weights), hint="try again")


def _convert(order: _Order, put: Put) -> EncoderWeights:
    """Hands the encoder's tensors to `put`, matrices in blocks of rows."""
    weights = read_encoder(order.sae)
    put("b_enc_F", 0, weights.b_enc_F)
    if weights.threshold_F is not None:
        put("threshold_F", 0, weights.threshold_F)
    for rows in row_blocks(weights.W_enc_FD):
        block = weights.W_enc_FD[rows].float()
        converted = block.to(_ENCODER_DTYPES[order.dtype])
        if not torch.isfinite(torch.stack(torch.aminmax(converted))).all():
            raise AssayError(
                f"W_enc has values beyond fp16's range: the largest magnitude is {float(block.abs().max()):g}",
                where=str(order.sae.weights),
                hint="use exact mode, which keeps the encoder in fp32",
            )
        put("W_enc_FD", rows.start, converted)
        if order.int8:
            scale = block.abs().amax(1) / 127
            divisor = torch.where(scale > 0, scale, 1.0)
            put("scale_F", rows.start, scale)
            put("W_int8_FD", rows.start, (block / divisor[:, None]).round_().clamp_(-127, 127).to(torch.int8))
    return weights


def _convert_in_memory(order: _Order) -> CachedEncoder:
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in order.layout().items()}

    def put(name: str, row: int, block: Tensor) -> None:
        tensors[name][row : row + len(block)] = block

    weights = _convert(order, put)
    return encoder_of(tensors, weights.activation, weights.k)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """One process at a time, where the file system has locks; elsewhere several do the same work, which is harmless."""
    with path.open("ab") as f:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _warn_once(reason: str) -> None:
    try:
        folder = str(cache_folder())
    except OSError:
        folder = ""
    if folder not in _warned:
        _warned.add(folder)
        logger.warning(
            "encoder cache: %s can't be used (%s), so encoders are converted in memory at each start; "
            "set ASSAY_CACHE to a folder with room",
            folder,
            reason,
        )
