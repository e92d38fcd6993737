"""A scope at work: texts in, sparse document features out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.pooling import DocumentPooler, SparseFeatures
from assay.sae_runtime.sae import TopKEncoder, encoder_shape
from assay.sae_runtime.weights import backbone_folder, hashes, sae_file, suite_k
from assay.sae_runtime.windows import Tokenizer, Window, cut_windows, make_batches, pad
from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.scope import EncoderIdentity, FeaturesIdentity, Scope


class ScopeFiles(NamedTuple):
    """Where a scope's weights lie on this machine."""

    backbone: Path
    saes: dict[int, Path]
    """layer -> SAE file"""
    k: int

    def hashes(self) -> dict[str, str]:
        """Every file that decides a feature -> SHA-256."""
        model = [self.backbone / "config.json", self.backbone / "tokenizer.json"]
        model += sorted(self.backbone.glob("*.safetensors"))
        return hashes(model) | hashes([self.saes[layer] for layer in sorted(self.saes)])


class ChunkFeatures(NamedTuple):
    """Features of a chunk of N documents, in their order."""

    n_tokens: NDArray[np.int32]
    """tokens in each document"""
    tokens_seen: NDArray[np.int32]
    """tokens that were counted: n_tokens less masked first positions and norm outliers"""
    layers: dict[int, SparseFeatures]


class Firing(NamedTuple):
    """One feature active on one token of a document."""

    layer: int
    feature: int
    start: int
    """offset in the text, in code points"""
    end: int
    act: float


class _Prepared(NamedTuple):
    n_tokens: NDArray[np.int32]
    batches: list[list[Window]]


def locate(scope: Scope) -> ScopeFiles:
    """Finds (or fetches) the scope's files; AssayError says what is missing and where it was looked for."""
    saes = {layer: sae_file(scope.sae, scope.sae_revision, layer) for layer in scope.layers}
    k = scope.k or suite_k(scope.sae, saes[scope.layers[0]])
    if k is None:
        raise AssayError(
            f"scope {scope.name!r}: k is not known",
            where=str(saes[scope.layers[0]].parent),
            hint='set k in the scope, or put config.json with {"k": ...} beside the SAE files',
        )
    return ScopeFiles(backbone_folder(scope.backbone, scope.backbone_revision), saes, k)


def identify(scope: Scope, device: str) -> EncoderIdentity:
    """The identity of the features that `scope` gives on `device`, read off its files without loading weights.

    Raises AssayError for files that are missing, damaged, or don't belong together.
    """
    files = locate(scope)
    shapes = {encoder_shape(path) for path in files.saes.values()}
    if len(shapes) > 1:
        raise AssayError(f"the SAEs of one scope differ in (d_sae, d_model): {sorted(shapes)}", where=scope.sae)
    d_sae, d_model = shapes.pop()
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if device.startswith("cuda") else "float32"
    return EncoderIdentity(
        files=files.hashes(),
        layers=scope.layers,
        k=files.k,
        d_model=d_model,
        d_sae=d_sae,
        window=scope.window,
        overlap=scope.overlap,
        mask_first=scope.mask_first,
        norm_outlier=scope.norm_outlier,
        dtype=dtype if scope.dtype == "auto" else scope.dtype,
    )


class Runtime:
    """A loaded scope. Features of a document don't depend on which documents it is batched with, beyond rounding."""

    def __init__(self, scope: Scope, *, device: str | None = None, watched: Iterable[tuple[int, int]] = ()) -> None:
        """Loads backbone and SAEs onto `device` ("cpu", "cuda", ...; by default the GPU if there is one).

        `watched` names (layer, feature) pairs that are stored for every document whatever their rank.
        """
        self.scope = scope
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.encoder_identity = identify(scope, str(self.device))
        files, dtype = locate(scope), getattr(torch, self.encoder_identity.dtype)
        self.tokenizer = Tokenizer(files.backbone)
        self.backbone = Backbone(files.backbone, scope.layers, dtype=dtype, device=self.device)
        if self.tokenizer.size > self.backbone.vocab_size:
            raise AssayError(
                f"the tokenizer has {self.tokenizer.size} tokens, the backbone embeds {self.backbone.vocab_size}",
                where=str(files.backbone),
                hint="tokenizer and weights are of different models",
            )
        self.encoders = {
            layer: TopKEncoder(path, files.k, d_model=self.backbone.d_model, device=self.device)
            for layer, path in files.saes.items()
        }
        self.d_sae = self.encoder_identity.d_sae
        self.encoder_fingerprint = fingerprint(self.encoder_identity)
        self.features_identity = FeaturesIdentity(
            encoder=self.encoder_fingerprint,
            top_m=scope.top_m,
            watched=tuple(sorted(set(watched))),
            batch_tokens=scope.batch_tokens,
        )
        self.features_fingerprint = fingerprint(self.features_identity)
        self._watched = {
            layer: [feature for at, feature in self.features_identity.watched if at == layer] for layer in scope.layers
        }

    def features(self, texts: Sequence[str]) -> ChunkFeatures:
        """Features of each text. Memory follows the longest text and the number of texts; see `stream`."""
        return self._run(self._prepare(texts))

    def stream(self, chunks: Iterable[Sequence[str]]) -> Iterator[ChunkFeatures]:
        """Features of chunk after chunk; the next chunk is read and tokenised in a thread while this one runs."""
        source = iter(chunks)

        def prepare_next() -> _Prepared | None:
            chunk = next(source, None)
            return None if chunk is None else self._prepare(chunk)

        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as ahead:
            pending = ahead.submit(prepare_next)
            while (prepared := pending.result()) is not None:
                pending = ahead.submit(prepare_next)
                yield self._run(prepared)

    def trace(self, text: str, wanted: Mapping[int, Iterable[int]]) -> list[Firing]:
        """Where the wanted features (layer -> ids) fire in `text`, in order of position; masked tokens are left out."""
        tokens = self.tokenizer.encode_with_offsets(text)
        firings = []
        for batch in make_batches(self._windows([tokens.ids]), self.scope.batch_tokens):
            hidden, counted_BT = self._forward(batch)
            rows, columns = (index.tolist() for index in counted_BT.nonzero(as_tuple=True))
            for layer, ids in wanted.items():
                wanted_ids = torch.as_tensor(sorted(ids), device=self.device)
                acts_TK, ids_TK = self.encoders[layer].encode(hidden[layer][counted_BT])
                hits = (torch.isin(ids_TK, wanted_ids) & (acts_TK > 0)).nonzero().tolist()
                for t, k in hits:
                    position = batch[rows[t]].start + columns[t]
                    start, end = tokens.offsets[position]
                    firings.append(Firing(layer, int(ids_TK[t, k]), start, end, float(acts_TK[t, k])))
        return sorted(firings, key=lambda f: (f.start, f.end, f.layer, f.feature))

    def _prepare(self, texts: Sequence[str]) -> _Prepared:
        ids = self.tokenizer.encode(texts)
        batches = make_batches(self._windows(ids), self.scope.batch_tokens)
        return _Prepared(np.array([len(i) for i in ids], np.int32), batches)

    def _windows(self, ids: Sequence[Sequence[int]]) -> list[Window]:
        scope = self.scope
        return [w for d, doc in enumerate(ids) for w in cut_windows(d, doc, scope.window, scope.overlap)]

    def _run(self, prepared: _Prepared) -> ChunkFeatures:
        poolers = {layer: DocumentPooler(self.d_sae) for layer in self.scope.layers}
        tokens_seen = np.zeros(len(prepared.n_tokens), np.int64)
        for batch in prepared.batches:
            hidden, counted_BT = self._forward(batch)
            document_B = torch.tensor([w.document for w in batch], device=self.device)
            documents_T = document_B[:, None].expand_as(counted_BT)[counted_BT]
            np.add.at(tokens_seen, document_B.cpu().numpy(), counted_BT.sum(1).cpu().numpy())
            for layer, pooler in poolers.items():
                pooler.add(documents_T, *self.encoders[layer].encode(hidden[layer][counted_BT]))
        layers = {
            layer: pooler.finish(tokens_seen, self.scope.top_m, self._watched[layer])
            for layer, pooler in poolers.items()
        }
        return ChunkFeatures(prepared.n_tokens, tokens_seen.astype(np.int32), layers)

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Window]) -> tuple[dict[int, Tensor], Tensor]:
        """(layer -> hidden_BTD, counted_BT): the mask leaves out padding, overlap, sinks and norm outliers."""
        hidden = self.backbone.residuals(pad(batch))
        length_B1 = torch.tensor([len(w.ids) for w in batch], device=self.device)[:, None]
        fresh_B1 = torch.tensor([w.fresh for w in batch], device=self.device)[:, None]
        position_1T = torch.arange(len(batch[0].ids), device=self.device)[None, :]
        usable_BT = position_1T < length_B1
        if self.scope.mask_first:
            usable_BT = usable_BT & (position_1T > 0)
        counted_BT = usable_BT & (position_1T >= fresh_B1)
        if self.scope.norm_outlier is not None:
            for hidden_BTD in hidden.values():
                norms_BT = hidden_BTD.float().norm(dim=-1)
                median_B1 = norms_BT.masked_fill(~usable_BT, torch.nan).nanmedian(dim=1, keepdim=True).values
                # A window whose only token is masked has no median; it counts nothing either way.
                counted_BT = counted_BT & (norms_BT <= self.scope.norm_outlier * median_B1)
        return hidden, counted_BT
