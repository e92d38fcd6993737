"""The features of a tagger with their weights and the tokens on which they fire."""

from collections.abc import Sequence

from assay.dashboard import numbers
from assay.dashboard.charts import numbers_table
from assay.dashboard.markup import Child, Html, data, join, tag
from assay.dashboard.plots import weight_bar
from assay.schemas.tagger import FeatureWeight, Tagger

SHOWN = 30
SHOWN_OF_A_LABEL = 6


def features_chart(tagger: Tagger) -> Html:
    """The heaviest features: of a score 30 and the others folded away; of a label tagger six for each label."""
    if tagger.kind == "score":
        order = sorted(tagger.features, key=lambda f: (-abs(f.weights[0]), f.layer, f.feature))
        rest = order[SHOWN:]
        table = _table([(f, f.weights[0]) for f in order[:SHOWN]])
        return join(table, _all(rest, f"The other {len(rest):,} features") if rest else None)
    parts: list[Child] = []
    for index, name in enumerate(tagger.labels):
        order = sorted(tagger.features, key=lambda f: (-abs(f.weights[index]), f.layer, f.feature))
        top = [(f, f.weights[index]) for f in order[:SHOWN_OF_A_LABEL] if f.weights[index]]
        parts.append(tag("figure", tag("h3", data(name)), _table(top)))
    return join(*parts)


def feature_name(layer: int, feature: int) -> str:
    """A feature as reports name it."""
    return f"{layer}:{feature}"


def tokens_list(tokens: Sequence[str]) -> Html:
    """Example tokens, each apart, with nothing in them that acts unseen."""
    return tag("span", *(data(token, 40) for token in tokens), class_="tokens") if tokens else tag("span", "–")


def _table(weighted: Sequence[tuple[FeatureWeight, float]]) -> Html:
    largest = max((abs(w) for _, w in weighted), default=0.0)
    rows = [
        tag(
            "tr",
            tag("th", feature_name(f.layer, f.feature), scope="row"),
            tag("td", weight_bar(w, largest), class_="wide", aria_hidden="true"),
            tag("td", f"{w:+.3f}"),
            tag("td", tokens_list(f.tokens)),
        )
        for f, w in weighted
    ]
    head = tag("tr", *(tag("th", t, scope="col") for t in ("Layer:feature", "", "Weight", "Fires most on")))
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="weights")


def _all(features: Sequence[FeatureWeight], title: str) -> Html:
    rows = [
        (feature_name(f.layer, f.feature), f"{f.weights[0]:+.3f}", f"{f.scale:.4g}", tokens_list(f.tokens))
        for f in features
    ]
    heaviest = numbers.score(abs(features[0].weights[0]))
    return join(
        tag("p", f"{title} have weights of {heaviest} at most.", class_="said"),
        numbers_table(("Layer:feature", "Weight", "Scale", "Fires most on"), rows),
    )
