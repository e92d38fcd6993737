"""A tagger that certain documents break, each in its way: what the tests put in the place of ShardTagger."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence

from assay.sae_runtime.runtime import ChunkFeatures
from assay.workers.tagging import ShardTagger, TagJob

KILLS, FAILS = "POISON that kills", "POISON that fails"


class PoisonedTagger(ShardTagger):
    """Tags as a ShardTagger does until the model is shown poison."""

    def __init__(self, job: TagJob) -> None:
        super().__init__(job)
        healthy = self._runtime.stream

        def stream(chunks: Iterable[Sequence[str]]) -> Iterator[ChunkFeatures]:
            return healthy(tasted(chunk) for chunk in chunks)

        self._runtime.stream = stream  # type: ignore[method-assign]


def tasted(chunk: Sequence[str]) -> Sequence[str]:
    for text in chunk:
        if text == KILLS:
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == FAILS:
            raise IndexError(f"token {id(text)} is out of range")
    return chunk
