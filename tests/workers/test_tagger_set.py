"""Taggers against the formula of their docstring in plain Python, and bounds that no allowed value leaves."""

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from assay.schemas.errors import AssayError
from assay.schemas.tagger import Tagger
from assay.workers.tagger_set import DOCUMENT_COLUMNS, TaggerSet

from .feature_tables import ENCODER, Doc, dense, labeller, score, table

POOLINGS = ("any", "max", "mean", "count")


def value(tagger: Tagger, index: int, doc: Doc) -> float:
    """min(pooled / scale, 1), or its root, of the tagger's feature in a document that stores all it has."""
    feature = tagger.features[index]
    entry = doc.features.get((feature.layer, feature.feature))
    if entry is None:
        return 0.0
    pooled = {"any": 1.0, "max": entry[0], "mean": entry[1], "count": entry[2]}[tagger.pooling]
    scaled = min(pooled / feature.scale, 1)
    return math.sqrt(scaled) if tagger.sqrt else scaled


def logits(tagger: Tagger, doc: Doc) -> list[float]:
    return [
        bias + sum(f.weights[label] * value(tagger, i, doc) for i, f in enumerate(tagger.features))
        for label, bias in enumerate(tagger.bias)
    ]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(values: Sequence[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def random_docs(count: int = 60) -> list[Doc]:
    draw = random.Random(1)
    return [
        Doc(
            {
                (layer, f): (2 * draw.random(), draw.random(), draw.randint(1, 10))
                for layer, f in itertools.product((2, 4), range(8))
                if draw.random() < 0.4
            }
        )
        for _ in range(count)
    ]


def apply(taggers: Iterable[Tagger], docs: Sequence[Doc], watched: Iterable[tuple[int, int]] = ()) -> dict[str, Any]:
    return dict(TaggerSet(tuple(taggers), ENCODER, watched).apply(table(docs)).to_pydict())


SCORE = {(2, 1): (0.7, 2.5), (2, 3): (3.0, -4.0), (4, 3): (0.5, 1.0), (4, 6): (1.5, -0.125)}
LABEL = {(2, 1): (0.7, (1.0, -2.0, 0.5)), (2, 5): (1.0, (3.0, 0.0, -1.0)), (4, 3): (2.0, (-1.0, 2.0, 0.25))}


@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_score_is_the_sigmoid_of_the_weighted_pooled_values(pooling: str, sqrt: bool) -> None:
    docs, tagger = random_docs(), score(SCORE, pooling=pooling, sqrt=sqrt, bias=(-0.3,))
    expected = [sigmoid(logits(tagger, doc)[0]) for doc in docs]
    assert max(expected) - min(expected) > 0.3
    assert apply([tagger], docs)["quality"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_label_is_the_largest_of_the_softmax_with_its_share(pooling: str, sqrt: bool) -> None:
    docs, tagger = random_docs(), labeller(LABEL, pooling=pooling, sqrt=sqrt, bias=(0.1, 0.2, 0.0))
    shares = [softmax(logits(tagger, doc)) for doc in docs]
    found = apply([tagger], docs)
    assert found["domain"] == [tagger.labels[s.index(max(s))] for s in shares]
    assert len(set(found["domain"])) > 1
    assert found["domain_p"] == pytest.approx([max(s) for s in shares], abs=1e-6)


@pytest.mark.parametrize("tagger", [score(SCORE, pooling="mean"), labeller(LABEL, sqrt=True)], ids=["score", "label"])
def test_the_reasons_are_the_three_largest_contributions(tagger: Tagger) -> None:
    docs = random_docs()
    found = apply([tagger], docs)[f"{tagger.name}_why"]
    taggers = TaggerSet([tagger], ENCODER)
    for doc, why in zip(docs, found, strict=True):
        all_logits = logits(tagger, doc)
        chosen = all_logits.index(max(all_logits))
        effects = {
            f"{f.layer}:{f.feature}": value(tagger, i, doc) * f.weights[chosen] for i, f in enumerate(tagger.features)
        }
        told = dict(part.split("=") for part in why.split())
        largest = sorted((abs(e) for e in effects.values() if round(e, 2)), reverse=True)[:3]
        assert [abs(float(number)) for number in told.values()] == pytest.approx(largest, abs=0.0051)
        assert all(float(number) == pytest.approx(effects[name], abs=0.0051) for name, number in told.items())
        contributions = taggers.contributions(table([doc]))[tagger.name]
        assert {f"{c.layer}:{c.feature and c.feature.feature}": c.effect for c in contributions} == pytest.approx(
            {name: effect for name, effect in effects.items() if _stored(doc, name)}, abs=1e-6
        )
        assert [abs(c.effect) for c in contributions] == sorted((abs(c.effect) for c in contributions), reverse=True)


def _stored(doc: Doc, name: str) -> bool:
    layer, _, feature = name.partition(":")
    return (int(layer), int(feature)) in doc.features


def test_the_documents_own_columns_come_first_unchanged() -> None:
    docs = random_docs(5)
    found = TaggerSet([score(SCORE), labeller(LABEL)], ENCODER).apply(table(docs))
    assert found.column_names == [*DOCUMENT_COLUMNS, "quality", "quality_why", "domain", "domain_p", "domain_why"]
    assert found.select(DOCUMENT_COLUMNS).to_pydict() == table(docs).select(DOCUMENT_COLUMNS).to_pydict()


def test_several_taggers_tag_as_each_would_alone() -> None:
    docs, taggers = random_docs(), [score(SCORE), labeller(LABEL), score(LABEL_AS_SCORE, name="other")]
    together = apply(taggers, docs)
    for tagger in taggers:
        alone = apply([tagger], docs)
        assert all(together[name] == alone[name] for name in alone)


LABEL_AS_SCORE = {key: (scale, weights[0]) for key, (scale, weights) in LABEL.items()}


def test_taggers_of_another_encoder_are_refused() -> None:
    with pytest.raises(AssayError, match="'quality' was fitted on encoder fedcba9876543210"):
        TaggerSet([score(SCORE, encoder="fedcba9876543210")], ENCODER)


@pytest.mark.parametrize("name", ["domain", "domain_p", "domain_why", "n_tokens", "row", "tokens"])
def test_taggers_that_would_write_the_same_column_are_refused(name: str) -> None:
    with pytest.raises(AssayError, match=name):
        TaggerSet([labeller(LABEL), score(SCORE, name=name)], ENCODER)


def test_a_tagger_of_a_layer_that_the_features_do_not_have_is_told() -> None:
    with pytest.raises(AssayError, match=r"'quality'.*layer 9"):
        apply([score({(9, 1): (1.0, 1.0)})], random_docs(2))


def test_the_fingerprint_follows_features_and_taggers_but_not_their_order() -> None:
    one, two = score(SCORE), labeller(LABEL)
    assert TaggerSet([one, two], ENCODER).fingerprint("f") == TaggerSet([two, one], ENCODER).fingerprint("f")
    others = [TaggerSet([one], ENCODER).fingerprint("f"), TaggerSet([one, two], ENCODER).fingerprint("g")]
    assert TaggerSet([one, two], ENCODER).fingerprint("f") not in others


@pytest.mark.parametrize("docs", [[], [Doc(), Doc(tokens=0)]], ids=["no documents", "no features"])
def test_documents_without_features_have_the_tag_of_the_bias(docs: list[Doc]) -> None:
    found = apply([score(SCORE, bias=(1.0,)), labeller(LABEL, bias=(0.0, 1.0, 0.0))], docs)
    assert found["quality"] == pytest.approx([sigmoid(1)] * len(docs))
    assert found["domain"] == ["news"] * len(docs)
    assert found["quality_why"] == found["domain_why"] == [""] * len(docs)


def test_no_taggers_give_the_documents_alone() -> None:
    found = TaggerSet([], ENCODER).apply(table(random_docs(3)))
    assert found.column_names == list(DOCUMENT_COLUMNS)
    assert found.num_rows == 3


def test_a_feature_that_may_have_been_cut_makes_a_tag_undecided_only_where_it_could_matter() -> None:
    tagger = score({(2, 1): (1.0, 4.0)})
    docs = [
        Doc(floors={2: 0.5}),  # it may be anywhere up to half its scale
        Doc(floors={2: 0.01}),  # it can move the score by 0.01 at most
        Doc(floors={4: 0.5}),  # another layer was cut
        Doc({(2, 1): (0.6, 0.1, 1)}, floors={2: 0.5}),  # it is stored
        Doc({(2, 7): (0.6, 0.1, 1)}, floors={2: 0.5}),  # another one is
    ]
    assert apply([tagger], docs)["quality"] == [
        None,
        pytest.approx(0.5, abs=0.01),
        0.5,
        pytest.approx(sigmoid(2.4)),
        None,
    ]
    watched = apply([tagger], docs, watched=[(2, 1)])["quality"]
    assert watched == pytest.approx([0.5, 0.5, 0.5, sigmoid(2.4), 0.5])


def test_a_label_is_undecided_only_where_a_cut_feature_could_change_it() -> None:
    tagger = labeller({(2, 1): (1.0, (0.0, 2.0, 0.0))}, bias=(1.0, 0.5, 0.0))
    docs = [Doc(floors={2: 0.2}), Doc(floors={2: 0.3}), Doc()]
    found = apply([tagger], docs)
    assert found["domain"] == ["code", None, "code"]
    assert found["domain_p"][1] is None
    assert apply([tagger], docs, watched=[(2, 1)])["domain"] == ["code"] * 3


def test_equal_shares_without_anything_cut_are_decided_for_the_first_label() -> None:
    assert apply([labeller(LABEL)], [Doc()])["domain"] == ["code"]


@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("make", [score, labeller], ids=["score", "label"])
def test_a_decided_tag_holds_for_everything_that_the_cut_features_may_have_been(
    make: Any, pooling: str, sqrt: bool
) -> None:
    """Tries the corners and random points of what the floors allow, for random taggers and floors."""
    draw = np.random.default_rng(3)
    decided = undecided = 0
    for _ in range(60):
        keys = [(2, 1), (2, 3), (4, 3)]
        width = 1 if make is score else 3
        weights = draw.normal(0, draw.choice([0.02, 0.2, 2]), (len(keys), width))
        spec = {
            key: (float(draw.uniform(0.2, 2)), float(w[0]) if make is score else tuple(map(float, w)))
            for key, w in zip(keys, weights, strict=True)
        }
        bias = tuple(map(float, draw.normal(0, 1, width)))
        tagger = make(spec, pooling=pooling, sqrt=sqrt, bias=bias)
        floors = {layer: float(np.float32(draw.choice([0.0, 0.05, 0.5]))) for layer in (2, 4)}
        tokens = int(draw.integers(1, 4))
        stored = {(2, 3): (0.75, 0.25, 1)} if draw.random() < 0.5 else {}
        found = apply([tagger], [Doc(stored, floors, tokens)])[tagger.name][0]
        if found is None:
            undecided += 1
            continue
        decided += 1
        cut = [key for key in keys if key not in stored and floors[key[0]] > 0]
        choices = [[None, *_allowed(floors[key[0]], tokens)] for key in cut]
        for values in itertools.product(*choices):
            real = Doc({**stored, **{k: v for k, v in zip(cut, values, strict=True) if v}}, {}, tokens)
            truth = logits(tagger, real)
            if make is score:
                assert sigmoid(truth[0]) == pytest.approx(found, abs=0.02)
            else:
                assert max(truth) == pytest.approx(truth[tagger.labels.index(found)])
    assert decided > 5
    assert undecided > 5


def _allowed(floor: float, tokens: int) -> list[tuple[float, float, int]]:
    """What a feature that fired below the floor may have been: its max, mean and count."""
    return [
        (top, top * share, count)
        for top in (floor, floor / 3)
        for count in (1, tokens)
        for share in (count / tokens, 1 / (2 * tokens))
    ]


# What a cut feature may do, document by document


def naive_bounds(tagger: Tagger, doc: Doc, watched: frozenset[tuple[int, int]]) -> tuple[list[float], list[float]]:
    """Lowest and highest outputs, one feature after the other."""
    low, high = logits(tagger, doc), logits(tagger, doc)
    for f in tagger.features:
        key, floor = (f.layer, f.feature), float(np.float32(doc.floors.get(f.layer, 0.0)))
        if key in doc.features or key in watched or floor == 0:
            continue
        largest = {"any": 1.0, "count": float(doc.tokens)}.get(tagger.pooling, floor)
        most = min(largest / f.scale, 1.0)
        most = math.sqrt(most) if tagger.sqrt else most
        for label, weight in enumerate(f.weights):
            low[label] += min(0.0, most * weight)
            high[label] += max(0.0, most * weight)
    return low, high


@pytest.mark.parametrize("link", ["logistic", "identity", "label"])
@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_tags_are_those_of_a_naive_computation_document_by_document(pooling: str, sqrt: bool, link: str) -> None:
    draw = random.Random(f"{pooling} {sqrt} {link}")
    docs = [
        doc._replace(floors={2: draw.choice([0.0, 0.125, 0.5]), 4: draw.choice([0.0, 0.25])}, tokens=draw.randint(1, 9))
        for doc in random_docs(300)
    ]
    keys = [(layer, f) for layer in (2, 4) for f in range(6)]
    draw.shuffle(keys)
    watched = frozenset(draw.sample(keys, 4))
    size = {"logistic": 0.3, "identity": 0.08, "label": 0.1}[link]
    if link == "label":
        tagger = labeller(
            {k: (draw.uniform(0.3, 3), tuple(draw.gauss(0, size) for _ in range(3))) for k in keys},
            pooling=pooling, sqrt=sqrt, bias=(0.02, 0.0, -0.01),
        )  # fmt: skip
    else:
        tagger = score(
            {k: (draw.uniform(0.3, 3), draw.gauss(0, size)) for k in keys},
            pooling=pooling, sqrt=sqrt, bias=(0.1,), link=link,
        )  # fmt: skip
    found = apply([tagger], docs, watched)
    nulls = 0
    for doc, tag in zip(docs, found[tagger.name], strict=True):
        low, high = naive_bounds(tagger, doc, watched)
        middle = [(least + most) / 2 for least, most in zip(low, high, strict=True)]
        if link == "label":
            best = middle.index(max(middle))
            rivals = max(most for label, most in enumerate(high) if label != best)
            expected: Any = tagger.labels[best] if low == high or low[best] > rivals else None
        else:
            ends = [sigmoid(x) if link == "logistic" else min(1.0, max(0.0, x)) for x in (low[0], middle[0], high[0])]
            expected = pytest.approx(ends[1], abs=1e-6) if ends[2] - ends[0] <= 0.02 else None
        nulls += expected is None
        assert tag == expected
    assert 10 < nulls < 290


# The other rules


def test_any_of_is_1_where_a_feature_fired_and_unknown_where_one_may_have_been_cut() -> None:
    tagger = score({(2, 1): (1.0, 1.0), (4, 3): (1.0, 2.0)}, rule="any_of", pooling="any", bias=(-9.0,))
    docs = [
        Doc({(2, 1): (0.5, 0.1, 1)}),
        Doc({(4, 3): (0.5, 0.1, 1)}, floors={2: 0.5}),  # one fired, whatever else was cut
        Doc({(2, 7): (0.5, 0.1, 1)}),
        Doc({(2, 7): (0.5, 0.1, 1)}, floors={4: 0.001}),
        Doc(floors={3: 0.5}),
    ]
    found = apply([tagger], docs)
    assert found["quality"] == [1.0, 1.0, 0.0, None, 0.0]
    assert found["quality_why"] == ["2:1=1", "4:3=2", "", "", ""]
    assert apply([tagger], docs, watched=[(4, 3)])["quality"] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert apply([tagger], docs, watched=[(2, 1)])["quality"] == [1.0, 1.0, 0.0, None, 0.0]


def test_a_regression_is_its_sum_cut_to_0_and_1() -> None:
    tagger = score({(2, 1): (1.0, 0.8)}, link="identity", bias=(0.4,))
    docs = [Doc(), Doc({(2, 1): (0.5, 0, 1)}), Doc({(2, 1): (5, 0, 1)}), Doc(floors={2: 0.5}), Doc(floors={2: 0.02})]
    assert apply([tagger], docs)["quality"] == pytest.approx([0.4, 0.8, 1.0, None, 0.408])
    below = score({(2, 1): (1.0, -0.8)}, link="identity", bias=(-0.1,))
    assert apply([below], docs)["quality"] == [0.0] * 5, "whatever was cut, it stays below 0"


MEANS = {2: np.array([[1, 0.5], [0, 0], [-2, 3]], np.float32), 4: np.array([[0.25, 4], [0, 0], [1, 1]], np.float32)}
UNKNOWN = [Doc(floors={2: 0.5, 4: 0.5}) for _ in range(3)]


def test_a_dense_probe_reads_the_mean_residual_and_is_never_unknown() -> None:
    scores = dense({2: [[0.5, -1]], 4: [[2, 0.25]]}, bias=(-0.5,))
    labels = dense(
        {4: [[1, 0], [0, 1], [0.5, 0.5]]}, name="kind", kind="label", labels=("a", "b", "c"), bias=(0, 0, 0.5)
    )
    taggers = TaggerSet([scores, labels, score(SCORE)], ENCODER)
    found = taggers.apply(table(UNKNOWN, residual_means=MEANS)).to_pydict()
    assert found["probe"] == pytest.approx([sigmoid(1.0), sigmoid(-0.5), sigmoid(-2.25)])
    assert found["probe_why"] == ["4:residual=1.5", "", "2:residual=-4 4:residual=2.25"]
    assert found["kind"] == ["b", "c", "c"]
    assert found["kind_p"][2] == pytest.approx(softmax([1, 1, 1.5])[2])
    assert found["quality"] == [None] * 3
    [first, second] = taggers.contributions(table(UNKNOWN[:1], residual_means={k: v[:1] for k, v in MEANS.items()}))[
        "probe"
    ]
    assert (first.layer, first.effect, first.feature, second.layer, second.effect) == (4, 1.5, None, 2, 0.0)


def test_a_dense_probe_on_features_without_residuals_is_told_what_to_do() -> None:
    with pytest.raises(AssayError, match=r"'probe' is a dense probe.*stored without residuals") as told:
        TaggerSet([dense({2: [[0.5, -1]]})], ENCODER).apply(table(UNKNOWN))
    assert "residuals: true" in told.value.hint


def test_only_the_columns_that_some_tagger_reads_are_needed() -> None:
    docs = [doc._replace(floors={2: 0.25, 4: 0.25}) for doc in random_docs()]
    means = {layer: np.random.default_rng(layer).normal(size=(60, 3)).astype(np.float32) for layer in (2, 4)}
    whole = table(docs, residual_means=means)
    one, fired = score({(2, 1): (1, 2)}), score({(2, 1): (1, 2)}, pooling="any")
    by_mean = labeller({(4, 3): (1, (1, 2, 3))}, pooling="mean")
    cases: list[tuple[list[Tagger], list[tuple[int, int]], set[str]]] = [
        ([one], [], {"l2_mean", "l2_count", "l4_ids", "l4_floor", "l2_residual_mean"}),
        ([one], [(2, 1)], {"l2_floor"}),
        ([fired, by_mean], [], {"l2_max", "l4_max", "l2_mean"}),
        ([dense({4: [[1, 2, 3]]})], [], {"l4_ids", "l2_ids", "l4_floor"}),
    ]
    for taggers, watched, left_out in cases:
        tagger_set = TaggerSet(taggers, ENCODER, watched)
        assert not left_out & set(tagger_set.reads)
        assert tagger_set.apply(whole.select(tagger_set.reads)).equals(tagger_set.apply(whole))


def test_tags_of_no_documents_have_the_columns_of_any() -> None:
    taggers = TaggerSet([dense({4: [[1, 2]]}), score(SCORE), labeller(LABEL)], ENCODER)
    one = taggers.apply(table(UNKNOWN, residual_means=MEANS))
    assert taggers.empty().schema == one.schema
    assert taggers.empty().num_rows == 0
