"""What a recipe compares: the documents that its rules keep, so that none goes for one that is not there."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.schemas.base import fingerprint
from assay.workers.curate_job import CurateJob, TaggedShard
from assay.workers.dedup.job import SearchUnit
from assay.workers.rules import Decider


class KeptByRules:
    """Chooses the documents that no rule drops; pickles as its job alone."""

    def __init__(self, job: CurateJob) -> None:
        self._job = job._replace(stages=(), copies=None)
        self._decider: Decider | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_job": self._job, "_decider": None}

    @property
    def fingerprint(self) -> str:
        """Of everything that decides which documents are chosen."""
        recipe = self._job.recipe
        rules = [rule.model_dump(mode="json", exclude={"reason"}) for rule in recipe.rules]
        sources = [[name, source.include] for name, source in zip(recipe.source_names, recipe.sources, strict=True)]
        return fingerprint([rules, sources, self._job.thresholds])

    def __call__(self, unit: SearchUnit) -> NDArray[np.bool_]:
        """Which documents of the shard's tags table are compared."""
        if self._decider is None:
            self._decider = Decider(self._job)
        documents = self._decider.documents(TaggedShard(unit.source, 0, unit.entry))
        return self._decider.decide(documents).copies > 0
