"""The surveys of all shards added up: what each rule and stage does to the whole."""

import pyarrow as pa

from assay.schemas.curation import RuleTally, StageTally, Tally
from assay.schemas.recipe import STAGES
from assay.schemas.statistics import merge
from assay.workers.curate_job import CurateJob
from assay.workers.surveying import Survey

_MERGE_EVERY = 64


class SurveyTotal:
    """Grows by a shard's survey; its size doesn't follow the shards."""

    def __init__(self, job: CurateJob) -> None:
        self._job = job
        self.kept, self.written, self.undecided = Tally(), Tally(), 0
        self.dropped = [Tally() for _ in job.recipe.verdicts]
        """in the order of Recipe.verdicts"""
        self._statistics: dict[str, _Merged] = {"kept": _Merged(), "dropped": _Merged()}
        self._alone = [0 for _ in job.recipe.rules]
        self._unknown = [0 for _ in job.recipe.rules]
        self._strata = [[(Tally(), Tally(), Tally()) for _ in stage.strata] for stage in job.stages]

    def add(self, found: Survey) -> None:
        """Takes the survey of another shard."""
        self.kept += found.kept
        self.written += found.written
        self.undecided += found.undecided
        self.dropped = [a + b for a, b in zip(self.dropped, found.dropped, strict=True)]
        self._alone = [a + b for a, b in zip(self._alone, found.alone, strict=True)]
        self._unknown = [a + b for a, b in zip(self._unknown, found.unknown, strict=True)]
        for sums, stage in zip(self._strata, found.stages, strict=True):
            for index, (a, more) in enumerate(zip(sums, zip(*stage, strict=True), strict=True)):
                sums[index] = (a[0] + more[0], a[1] + more[1], a[2] + more[2])
        for name, table in found.statistics.items():
            self._statistics.setdefault(name, _Merged()).add(table)

    def statistics(self) -> dict[str, pa.Table]:
        """Of kept and dropped documents, and of further copies where there are any."""
        return {name: merged.table() for name, merged in sorted(self._statistics.items())}

    def rules(self) -> tuple[RuleTally, ...]:
        """What each rule does."""
        rules = self._job.recipe.rules
        return tuple(
            RuleTally(name=rule.name, reason=rule.reason, dropped=dropped, alone=alone, undecided=unknown)
            for rule, dropped, alone, unknown in zip(
                rules, self.dropped[: len(rules)], self._alone, self._unknown, strict=True
            )
        )

    def by_stage(self) -> dict[str, Tally]:
        """What each stage drops, whether the recipe has it or not."""
        return dict(zip(STAGES, self.dropped[-len(STAGES) :], strict=True))

    def stages(self) -> tuple[StageTally, ...]:
        """The job's stages with what they did."""
        names = self._job.recipe.verdicts
        return tuple(
            StageTally(
                name=stage.name,
                dropped=self.dropped[names.index(stage.name)],
                strata=tuple(
                    cut.model_copy(update={"available": available, "kept": kept, "written": written})
                    for cut, (available, kept, written) in zip(stage.strata, sums, strict=True)
                ),
            )
            for stage, sums in zip(self._job.stages, self._strata, strict=True)
        )


class _Merged:
    """Statistics added up, a few tables at a time in memory."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Takes another table."""
        self._tables.append(table)
        if len(self._tables) >= _MERGE_EVERY:
            self._tables = [merge(self._tables)]

    def table(self) -> pa.Table:
        """The sum."""
        return merge(self._tables)
