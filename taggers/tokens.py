"""A few tokens for each feature of a tagger, so that its file can be read."""

from collections.abc import Sequence

from assay.sae_runtime.runtime import Runtime
from assay.schemas.tagger import FeatureWeight

_TEXTS = 400
_CHARACTERS = 1000
_TOKENS = 5


def with_tokens(features: Sequence[FeatureWeight], texts: Sequence[str], runtime: Runtime) -> tuple[FeatureWeight, ...]:
    """The features with up to five distinct tokens on which each fires most, over a sample of the texts."""
    wanted: dict[int, list[int]] = {}
    for f in features:
        wanted.setdefault(f.layer, []).append(f.feature)
    strongest: dict[tuple[int, int], dict[str, float]] = {}
    for text in texts[:: max(1, len(texts) // _TEXTS)]:
        short = text[:_CHARACTERS]
        for firing in runtime.trace(short, wanted):
            token = short[firing.start : firing.end].strip()
            if token:
                seen = strongest.setdefault((firing.layer, firing.feature), {})
                seen[token] = max(seen.get(token, 0.0), firing.act)
    return tuple(f.model_copy(update={"tokens": _best(strongest.get((f.layer, f.feature), {}))}) for f in features)


def _best(tokens: dict[str, float]) -> tuple[str, ...]:
    return tuple(sorted(tokens, key=lambda token: (-tokens[token], token))[:_TOKENS])
