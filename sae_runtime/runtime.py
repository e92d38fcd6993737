"""A scope at work: texts in, sparse document features out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from assay.sae_runtime.backbone import Backbone
from assay.sae_runtime.encoder import Encoder
from assay.sae_runtime.forward import Forward
from assay.sae_runtime.hardware import best_threads, settle_screen
from assay.sae_runtime.pooling import DocumentPooler, SparseFeatures
from assay.sae_runtime.residual_mean import ResidualMeans
from assay.sae_runtime.scope_files import identify, locate
from assay.sae_runtime.windows import Tokenizer, Window, cut_windows, make_batches
from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError
from assay.schemas.scope import FeaturesIdentity, Scope


class ChunkFeatures(NamedTuple):
    """Features of a chunk of N documents, in their order."""

    n_tokens: NDArray[np.int32]
    """tokens in each document"""
    tokens_seen: NDArray[np.int32]
    """tokens that could count: n_tokens less those beyond max_tokens and masked first positions; a layer's outliers
    go off this"""
    layers: dict[int, SparseFeatures]
    residual_means: dict[int, NDArray[np.float32]] | None = None
    """layer -> (N, d_model): mean residual of each document's counted tokens; None unless the scope asks for them"""


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


class Runtime:
    """A loaded scope. Features of a document don't depend on which documents it is batched with, beyond rounding."""

    def __init__(
        self,
        scope: Scope,
        *,
        device: str | None = None,
        watched: Iterable[tuple[int, int]] = (),
        threads: int | None = None,
    ) -> None:
        """Loads backbone and SAEs onto `device` ("cpu", "cuda", ...; by default the GPU if there is one).

        `watched` names (layer, feature) pairs that are stored for every document whatever their rank. `threads` is
        torch's number of CPU threads in this process; on a CPU a short measurement chooses it where it isn't given.
        """
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.scope = scope = scope.on(str(self.device))
        if threads is not None or self.device.type == "cpu":
            torch.set_num_threads(threads or best_threads())
        self.encoder_identity = identify(scope, str(self.device))
        files, dtype = locate(scope), getattr(torch, self.encoder_identity.dtype)
        self.tokenizer = Tokenizer(files.backbone)
        self.backbone = Backbone(files.backbone, scope.layers, dtype=dtype, device=self.device, fuse=scope.compile)
        if self.tokenizer.size > self.backbone.vocab_size:
            raise AssayError(
                f"the tokenizer has {self.tokenizer.size} tokens, the backbone embeds {self.backbone.vocab_size}",
                where=str(files.backbone),
                hint="tokenizer and weights are of different models",
            )
        k, d_model = self.encoder_identity.k, self.backbone.d_model
        self.scope = scope = settle_screen(scope, self.device.type, d_model)
        self.encoders = {
            layer: Encoder(
                sae,
                k=k,
                d_model=d_model,
                device=self.device,
                dtype=dtype,
                exact=scope.exact,
                screen=bool(scope.screen),
            )
            for layer, sae in files.saes.items()
        }
        self._forward = Forward(scope, self.backbone, self.encoders)
        self.d_sae = self.encoder_identity.d_sae
        self.encoder_fingerprint = fingerprint(self.encoder_identity)
        self.features_identity = FeaturesIdentity.of(scope, self.encoder_fingerprint, watched)
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
        wanted_ids = {layer: torch.as_tensor(sorted(ids), device=self.device) for layer, ids in wanted.items()}
        firings = []
        for batch in self._batches([tokens.ids]):
            for part in self._forward.run(batch):
                for layer, found in part.layers.items():
                    hit_A = torch.isin(found.ids_A, wanted_ids.get(layer, found.ids_A[:0]))
                    columns = (part.position_T[found.token_A[hit_A]], found.ids_A[hit_A], found.acts_A[hit_A])
                    for position, feature, act in zip(*(column.tolist() for column in columns), strict=True):
                        start, end = tokens.offsets[position]
                        firings.append(Firing(layer, feature, start, end, act))
        return sorted(firings, key=lambda f: (f.start, f.end, f.layer, f.feature))

    def _prepare(self, texts: Sequence[str]) -> _Prepared:
        ids = self.tokenizer.encode(texts)
        return _Prepared(np.array([len(i) for i in ids], np.int32), self._batches(ids))

    def _batches(self, ids: Sequence[Sequence[int]]) -> list[list[Window]]:
        scope = self.scope
        windows = [
            w for d, doc in enumerate(ids) for w in cut_windows(d, doc[: scope.max_tokens], scope.window, scope.overlap)
        ]
        assert scope.batch_tokens is not None  # noqa: S101 - settled for the device
        return make_batches(windows, scope.batch_tokens)

    def _run(self, prepared: _Prepared) -> ChunkFeatures:
        N = len(prepared.n_tokens)
        poolers = {layer: DocumentPooler(self.d_sae) for layer in self.scope.layers}
        seen_N = np.zeros(N, np.int64)
        outliers = {layer: np.zeros(N, np.int64) for layer in self.scope.layers}
        kept = self.scope.layers if self.scope.residuals else ()
        residuals = {layer: ResidualMeans(N, self.backbone.d_model) for layer in kept}
        for batch in prepared.batches:
            for part in self._forward.run(batch):
                seen_N += np.bincount(part.document_T.cpu().numpy(), minlength=N)
                for layer, found in part.layers.items():
                    poolers[layer].add(part.document_T[found.token_A], found.ids_A, found.acts_A)
                    outliers[layer] += np.bincount(part.document_T[part.outlier[layer]].cpu().numpy(), minlength=N)
                for layer, sum_BD in part.residual_sums.items():
                    residuals[layer].add(part.window_document_B, sum_BD)
        layers = {
            layer: pooler.finish(seen_N, outliers[layer], self.scope.top_m, self._watched[layer])
            for layer, pooler in poolers.items()
        }
        means = {layer: means.finish(seen_N - outliers[layer]) for layer, means in residuals.items()}
        return ChunkFeatures(prepared.n_tokens, seen_N.astype(np.int32), layers, means or None)
