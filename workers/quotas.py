"""How much of each stratum a recipe's sample or mixture wants, from what is there: exact fractions, no rounding."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

from assay.schemas.curation import Tally
from assay.schemas.errors import AssayError
from assay.schemas.recipe import Mixture, Recipe, Sample


class Quota(NamedTuple):
    """What a stage wants of one stratum."""

    wanted: Fraction | None
    """in the stage's unit, with repeats; None: all that is there"""
    whole: int
    """copies of each document"""
    extra: Fraction | None
    """what one more copy of some documents may add; None: nothing"""
    capped: bool = False


EVERYTHING = Quota(None, 1, None)
NOTHING = Quota(Fraction(0), 0, None)


def stage_unit(recipe: Recipe, stage: str) -> str:
    """What a stage counts: tokens or documents."""
    if stage == "mixture" and recipe.mixture:
        return recipe.mixture.unit
    return "tokens" if recipe.sample and recipe.sample.tokens else "documents"


def quotas(recipe: Recipe, stage: str, strata: Sequence[str], available: Sequence[Tally]) -> list[Quota]:
    """One for each stratum, the last of which is the rest.

    Raises AssayError for a mixture without `total` whose listed value no document has: nothing could be mixed.
    """
    there = [getattr(tally, stage_unit(recipe, stage)) for tally in available]
    if stage == "mixture":
        assert recipe.mixture is not None  # noqa: S101 - a stage is in the recipe
        return _mixture(recipe.mixture, strata, there)
    assert recipe.sample is not None  # noqa: S101
    return _sample(recipe.sample, there)


def _sample(sample: Sample, there: Sequence[int]) -> list[Quota]:
    """Each stratum keeps its part of the whole."""
    whole = sum(there)
    if sample.fraction is not None:
        part = exact(sample.fraction)
    else:
        budget = sample.tokens or sample.documents or 0
        part = Fraction(budget, whole) if whole else Fraction(1)
    return [Quota(n * part, 0, n * part) if part < 1 else Quota(n * part, 1, None) for n in there]


def _mixture(mixture: Mixture, strata: Sequence[str], there: Sequence[int]) -> list[Quota]:
    """share x total each, but no more than max_repeat times what is there."""
    repeat = exact(mixture.max_repeat)
    shares = {name: exact(share) for name, share in mixture.shares.items()}
    count = dict(zip(strata, there, strict=True))
    if mixture.total is None:
        if empty := [name for name in shares if not count[name]]:
            raise AssayError(
                f"no document is left whose {mixture.by} is {', '.join(map(repr, empty))}, so nothing can be mixed",
                where="mixture.shares",
                hint="give mixture.total to mix what there is, or take the value out",
            )
        total = min(count[name] * repeat / share for name, share in shares.items())
    else:
        total = Fraction(mixture.total)
    result = []
    for name, n in zip(strata, there, strict=True):
        if name not in shares:
            result.append(EVERYTHING if mixture.rest == "keep" else NOTHING)
            continue
        wanted = shares[name] * total
        reached = min(wanted, n * repeat)
        whole = floor(reached / n) if n else 0
        extra = reached - whole * n
        result.append(Quota(wanted, whole, extra or None, reached < wanted))
    return result


def exact(number: float) -> Fraction:
    """The decimal number that was written, which a float only comes near."""
    return Fraction(str(number))
