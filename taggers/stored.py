"""Stored features of labelled documents as a stream: nothing of a corpus is held but what a caller keeps."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.schemas.errors import AssayError
from assay.schemas.scope import Scope
from assay.schemas.store import StoredObject, TagManifest, features_prefix
from assay.workers.feature_table import iter_parquet
from assay.workers.storage.objects import ObjectStore


class Block(NamedTuple):
    """Features of some examples: entry e is column `column_E[e]` of example `example_E[e]`.

    A column is a layer's place among the layers times d_sae, plus the feature.
    """

    example_E: NDArray[np.int64]
    column_E: NDArray[np.int64]
    value_E: dict[str, NDArray[np.float32]]
    """pooling (max, mean, count) -> value; only those that were asked for"""


class Documents(NamedTuple):
    """What is stored of N examples beside features."""

    found_N: NDArray[np.bool_]
    tokens_N: NDArray[np.int64]
    cut_N: NDArray[np.bool_]
    """features were left out of it: those are bounded by a floor, and are taken for absent here"""


class Stored:
    """The features of N examples in a store's finished runs of one encoder."""

    def __init__(
        self,
        store: ObjectStore,
        manifests: Sequence[TagManifest],
        place: Mapping[str, int],
        layers: Sequence[int] = (),
    ) -> None:
        """`place` says which example a document id is; `layers` are those that a tagger may read, by default all.

        AssayError where the runs' features differ, or a layer isn't stored.
        """
        kinds = {manifest.features for manifest in manifests}
        if len(kinds) != 1:
            raise AssayError(f"{len(kinds)} kinds of features in the runs", where=store.root, hint="name one run")
        self._store, self._place = store, place
        self.features = kinds.pop()
        identity = json.loads(store.read(f"{features_prefix(self.features)}/identity.json"))
        self.scope = Scope.model_validate(identity["scope"])
        there = tuple(identity["encoder"]["layers"])
        if absent := sorted(set(layers) - set(there)):
            raise AssayError(
                f"layers {absent} aren't stored", where=store.root, hint=f"stored: {', '.join(map(str, there))}"
            )
        self.layers = tuple(layer for layer in there if not layers or layer in layers)
        self.d_sae = int(identity["encoder"]["d_sae"])
        self.d_model = int(identity["encoder"]["d_model"])
        self.encoder: str = identity["features"]["encoder"]
        self._objects: list[StoredObject] = [
            entry.objects["features"] for m in manifests for entry in m.shards if "features" in entry.objects
        ]
        self._rows: dict[int, NDArray[np.int64]] = {}
        self.documents = self._find()

    @property
    def columns(self) -> int:
        """Columns of all layers."""
        return len(self.layers) * self.d_sae

    def blocks(self, poolings: Sequence[str], layers: Sequence[int] | None = None) -> Iterator[Block]:
        """Every example's features once, in stored order; `layers` limits them."""
        wanted = self.layers if layers is None else tuple(layers)
        lists = ["ids", *(p for p in ("max", "mean", "count") if p in poolings)]
        names = [f"l{layer}_{name}" for layer in wanted for name in lists]
        for place, table in self._tables(names):
            parts: list[tuple[NDArray, NDArray, dict[str, NDArray]]] = []
            for layer in wanted:
                ids = table[f"l{layer}_ids"].combine_chunks()
                example_E = np.repeat(place, ids.value_lengths().to_numpy(zero_copy_only=False))
                mine = example_E >= 0
                column_E = ids.flatten().to_numpy(zero_copy_only=False)[mine].astype(np.int64)
                values = {
                    name: table[f"l{layer}_{name}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)[mine]
                    for name in lists[1:]
                }
                parts.append((example_E[mine], column_E + self.layers.index(layer) * self.d_sae, values))
            yield Block(
                np.concatenate([p[0] for p in parts]),
                np.concatenate([p[1] for p in parts]),
                {name: np.concatenate([p[2][name] for p in parts]).astype(np.float32) for name in lists[1:]},
            )

    def has_residuals(self) -> bool:
        """Whether the runs stored mean residuals, as a scope with `residuals` does."""
        if not self._objects:
            return False
        with self._store.open_input(self._objects[0]) as handle:
            schema = pa.parquet.read_schema(handle)
        return f"l{self.layers[0]}_residual_mean" in schema.names

    def residuals(self, layer: int) -> NDArray[np.float32]:
        """(N, d_model): each example's mean residual over its counted tokens; zeros where it isn't stored."""
        mean_ND = np.zeros((len(self.documents.found_N), self.d_model), np.float32)
        name = f"l{layer}_residual_mean"
        for place, table in self._tables([name]):
            flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            rows = flat.reshape(table.num_rows, self.d_model)
            mean_ND[place[place >= 0]] = rows[place >= 0]
        return mean_ND

    def _find(self) -> Documents:
        n = max(self._place.values(), default=-1) + 1
        found, cut, tokens = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, np.int64)
        names = ["doc_id", "n_tokens", *(f"l{layer}_floor" for layer in self.layers)]
        for number, stored in enumerate(self._objects):
            places = []
            for table in self._read(stored, names):
                place = np.array([self._place.get(id, -1) for id in table["doc_id"].to_pylist()], np.int64)
                mine = place >= 0
                mine[mine] = ~found[place[mine]]  # an id that stands in several runs counts once
                found[place[mine]] = True
                tokens[place[mine]] = table["n_tokens"].to_numpy()[mine]
                floor = np.max([table[f"l{layer}_floor"].to_numpy() for layer in self.layers], axis=0)
                cut[place[mine]] = floor[mine] > 0
                places.append(np.where(mine, place, -1))
            self._rows[number] = np.concatenate(places) if places else np.zeros(0, np.int64)
        return Documents(found, tokens, cut)

    def _tables(self, names: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """(example of each row or -1, table) for every row group that holds an example."""
        for number, stored in enumerate(self._objects):
            place, at = self._rows[number], 0
            if not (place >= 0).any():
                continue
            for table in self._read(stored, names):
                here = place[at : at + table.num_rows]
                at += table.num_rows
                if (here >= 0).any():
                    yield here, table

    def _read(self, stored: StoredObject, names: Sequence[str]) -> Iterator[pa.Table]:
        with self._store.open_input(stored) as handle:
            yield from iter_parquet(pa.PythonFile(handle, "r"), names)
