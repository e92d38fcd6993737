"""A corpus as an endless, repeatable stream of token windows to train on, and the held-out documents beside it.

A place is (pass, shard, document, window): how many of each are behind it, so that reading can begin again there.
"""

import hashlib
import logging
import random
from collections.abc import Iterator
from itertools import count

from assay.sae_runtime.windows import Tokenizer, Window, cut_windows
from assay.schemas.corpus import CorpusPlan, Shard
from assay.schemas.errors import AssayError
from assay.workers.corpora.reading import BadShard, Document, read_documents

log = logging.getLogger(__name__)

HELD_OUT_ONE_IN = 20
Place = tuple[int, ...]


def is_held_out(doc_id: str) -> bool:
    """Whether a document is kept from training: one in 20, by the hash of its id alone."""
    return int(hashlib.sha256(doc_id.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) % HELD_OUT_ONE_IN == 0


class TrainingWindows:
    """Gives the same windows in the same order from the same place; no window of a held-out document trains.

    Shards come in a new order in each pass, which follows from the seed; a shard that can't be read is left out.
    """

    def __init__(self, plan: CorpusPlan, tokenizer: Tokenizer, *, window: int, overlap: int, seed: int) -> None:
        self._plan, self._tokenizer, self._seed = plan, tokenizer, seed
        self._window, self._overlap = window, overlap

    def training(self, place: Place = ()) -> Iterator[tuple[Place, Window]]:
        """The windows of the documents that aren't held out, pass after pass; AssayError for a pass with none."""
        first = place or (0, 0, 0, 0)
        for number in count(first[0]):
            given = False
            for placed in self._pass(number, first[1:], held_out=False):
                given = True
                yield placed
            if not given and not any(first[1:]):
                raise AssayError(
                    "no document to train on",
                    where=self._plan.corpus,
                    hint="it needs readable text that isn't held out (one document in 20 is); "
                    "does --text-column name the right column?",
                )
            log.warning("%s: pass %d over all documents is done; beginning another", self._plan.corpus, number + 1)
            first = (number + 1, 0, 0, 0)

    def held_out(self, place: Place = ()) -> Iterator[tuple[Place, Window]]:
        """The windows of the held-out documents, once."""
        return self._pass(0, place[1:] or (0, 0, 0), held_out=True)

    def _pass(self, number: int, behind: Place, *, held_out: bool) -> Iterator[tuple[Place, Window]]:
        shards = list(self._plan.shards)
        random.Random(f"{self._seed} {number}").shuffle(shards)  # noqa: S311 - an order, no secret
        first_shard, first_document, first_window = behind
        for s, shard in enumerate(shards[first_shard:], first_shard):
            for d, document in enumerate(self._documents(shard)):
                if d < first_document or is_held_out(document.id) != held_out:
                    continue
                ids = self._tokenizer.encode([document.text])[0]
                for w, window in enumerate(cut_windows(d, ids, self._window, self._overlap), 1):
                    if w > first_window and len(window.ids) > 1:
                        yield (number, s, d, w), window
                first_window = 0
            first_document = first_window = 0

    def _documents(self, shard: Shard) -> Iterator[Document]:
        try:
            for record in read_documents(shard, self._plan.options):
                if isinstance(record, Document):
                    yield record
        except BadShard as e:
            log.warning("left out what can't be read: %s", e)
