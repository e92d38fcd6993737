"""Made-up evidence of the shape that fitting gives."""

import random
from collections.abc import Sequence

from assay.schemas.evidence import AtPrevalence, CalibrationBin, Candidate, Evidence, Figure, LearningPoint, Slice
from assay.schemas.tagger import FeatureWeight, Tagger

TOKENS = ("idiot", "stupid", "die", "Dummkopf", "scum")


def figure(value: float, half: float = 0.02) -> Figure:
    """A figure with an interval of that half width, within [0, 1]."""
    return Figure(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0))


def scored(
    rival: float = 0.941, tokens: Sequence[str] = TOKENS, names: Sequence[str] = ("tfidf_logistic", "length")
) -> Tagger:
    """A score tagger; its best baseline has the AUROC `rival` against its own 0.905."""
    draw = random.Random(1)
    features = tuple(
        FeatureWeight(
            layer=1 + i % 4, feature=37 * i, scale=1.5, weights=(round(draw.gauss(0, 0.6), 3),), tokens=tuple(tokens)
        )
        for i in range(64)
    )
    tagger = Tagger(
        name="toxicity", axis="safety", kind="score", description="insults, abuse and hateful speech",
        labels=("toxic",), encoder="f22202af2d760500", pooling="max", sqrt=True, bias=(-1.97,), features=features,
        threshold=0.31, threshold_rule="largest F1 on validation documents", method="L1 logistic regression, C = 0.1",
        fitted_on={"data": {"path": "toxic.jsonl", "sha256": "1e6c2094" * 8}, "documents": {"discovery": 3000}},
    )  # fmt: skip
    measures = ("auroc", "auprc", "f1", "precision", "recall")
    baselines = {
        names[0]: dict(zip(measures, map(figure, (rival, 0.95, 0.88, 0.86, 0.9)), strict=True)),
        "dense_mean": dict(zip(measures, map(figure, (0.93, 0.94, 0.86, 0.85, 0.88)), strict=True)),
        names[1]: dict(zip(measures, map(figure, (0.612, 0.64, 0.55, 0.5, 0.61)), strict=True)),
        "random_features": dict(zip(measures, map(figure, (0.701, 0.72, 0.6, 0.58, 0.63)), strict=True)),
    }
    slices = [
        Slice(dimension="language", value=v, documents=n, positives=p, mean_score=m, figures={"auroc": figure(a, h)})
        for v, n, p, m, a, h in (("en", 1203, 604, 0.51, 0.931, 0.012), ("de", 402, 200, 0.48, 0.843, 0.041),
                                 ("pt", 61, 22, 0.44, 0.704, 0.14))
    ]  # fmt: skip
    slices.append(Slice(dimension="source", value="news", documents=353, positives=0, figures={}, mean_score=0.027))
    slices.append(
        Slice(dimension="source", value="tweets", documents=930, positives=500, figures={"auroc": figure(0.88)})
    )
    slices += [
        Slice(dimension="length", value=v, documents=417, positives=200, figures={"auroc": figure(a, 0.03)})
        for v, a in (("1 to 24 tokens", 0.83), ("25 to 61 tokens", 0.89), ("62 to 180 tokens", 0.92),
                     ("181 to 9,310 tokens", 0.951))
    ]  # fmt: skip
    candidates = [
        Candidate(
            rule="any_of",
            layers=(layer,),
            features=k,
            pooling="any",
            detail=f"K = {k}",
            validation=round(v - layer / 50, 4),
        )
        for layer in (1, 2)
        for k, v in ((1, 0.74), (2, 0.78), (4, 0.77), (8, 0.72), (16, 0.66), (32, 0.58))
    ]
    candidates += [
        Candidate(layers=(1, 2, 3, 4), features=k, pooling=pooling, detail=f"L1, C = {c}", validation=v, chosen=chosen)
        for k, pooling, c, v, chosen in (
            (16, "max", 0.1, 0.861, False), (64, "max", 0.1, 0.902, True), (256, "max", 0.1, 0.899, False),
            (16, "mean", 1.0, 0.842, False), (64, "mean", 1.0, 0.88, False), (256, "mean", 1.0, 0.884, False))
    ]  # fmt: skip
    evidence = Evidence(
        summary="TF-IDF with logistic regression does better on this data." if rival > 0.905 else "It holds.",
        headline="auroc",
        test=dict(zip(measures, map(figure, (0.905, 0.911, 0.842, 0.83, 0.86)), strict=True)),
        baselines=baselines,
        slices=tuple(slices),
        prevalence=tuple(
            AtPrevalence(prevalence=p, precision=figure(v, h))
            for p, v, h in ((0.01, 0.214, 0.05), (0.001, 0.027, 0.01))
        ),
        calibration=tuple(
            CalibrationBin(predicted=0.05 + i / 10, observed=round((0.05 + i / 10) ** 1.3, 3), documents=90 + 13 * i)
            for i in range(10)
        ),
        learning_curve=tuple(
            LearningPoint(share=s, documents=round(3000 * s), figure=figure(v, 0.03))
            for s, v in ((0.01, 0.71), (0.03, 0.79), (0.1, 0.86), (0.3, 0.893), (1.0, 0.905))
        ),
        candidates=tuple(candidates),
    )  # fmt: skip
    return tagger.model_copy(update={"evidence": evidence})


def labelled() -> Tagger:
    """A label tagger of three labels that beats its one baseline."""
    features = tuple(
        FeatureWeight(layer=2, feature=i, scale=1.0, weights=(i / 10, -0.2, 0.05), tokens=("def", "return"))
        for i in range(1, 12)
    )
    labels = ("code", "news", "shop")
    tagger = Tagger(
        name="domain", axis="domain", kind="label", description="topic", labels=labels, encoder="f" * 16,
        pooling="mean", sqrt=False, bias=(0.0, 0.1, -0.1), features=features, method="logistic regression",
    )  # fmt: skip
    evidence = Evidence(
        summary="", headline="macro_f1", test={"macro_f1": figure(0.71), "accuracy": figure(0.74)},
        labels={n: {"f1": figure(v, 0.05), "precision": figure(v), "recall": figure(v)}
                for n, v in zip(labels, (0.81, 0.66, 0.6), strict=True)},
        baselines={"tfidf_logistic": {"macro_f1": figure(0.64), "accuracy": figure(0.66)}},
        slices=(Slice(dimension="length", value="1 to 80 tokens", documents=90, figures={"macro_f1": figure(0.6)}),),
    )  # fmt: skip
    return tagger.model_copy(update={"evidence": evidence})
