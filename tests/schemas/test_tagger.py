"""Tagger files: readable, exact, and named by what decides a tag."""

import json
from pathlib import Path
from typing import Any

import pytest

from assay.schemas.errors import AssayError
from assay.schemas.evidence import Evidence, Figure
from assay.schemas.tagger import FeatureWeight, Tagger, dump_tagger, load_tagger, load_taggers

FIGURE = Figure(value=0.9, low=0.8, high=0.95)
EVIDENCE = Evidence(
    summary="beats every baseline",
    headline="auroc",
    test={"auroc": FIGURE},
    baselines={"length_only": {"auroc": Figure(value=0.5, low=0.4, high=0.6)}},
)


def a_tagger(**changes: Any) -> Tagger:
    fields: dict[str, Any] = {
        "name": "toxicity",
        "axis": "safety",
        "kind": "score",
        "description": "insults — and 侮辱",
        "labels": ("toxic",),
        "encoder": "0123456789abcdef",
        "pooling": "max",
        "sqrt": True,
        "bias": (-1.5,),
        "features": (
            FeatureWeight(layer=2, feature=7, scale=0.1, weights=(1 / 3,), tokens=("naïve", '"\n')),
            FeatureWeight(layer=4, feature=0, scale=12.0, weights=(-2e-9,)),
        ),
        "method": "by hand",
        "evidence": EVIDENCE,
        "fitted_on": {"sha256": "ff"},
    }
    return Tagger(**(fields | changes))


def a_labeller(**changes: Any) -> Tagger:
    features = (FeatureWeight(layer=2, feature=7, scale=1, weights=(1.0, 2.0)),)
    fields = {"name": "domain", "axis": "domain", "kind": "label", "labels": ("code", "news"), "bias": (0.0, 0.5)}
    return a_tagger(**({**fields, "features": features} | changes))


@pytest.mark.parametrize("tagger", [a_tagger(), a_labeller()], ids=["score", "label"])
def test_what_is_dumped_is_loaded_as_it_was(tmp_path: Path, tagger: Tagger) -> None:
    path = tmp_path / "tagger.json"
    path.write_text(dump_tagger(tagger), "utf-8")
    assert load_tagger(path) == tagger
    assert dump_tagger(load_tagger(path)) == path.read_text("utf-8")


def test_a_dump_has_one_feature_a_line_and_unescaped_words() -> None:
    text = dump_tagger(a_tagger())
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    assert [json.loads(line)["feature"] for line in lines if line.startswith('{"layer"')] == [7, 0]
    assert "侮辱" in text
    assert text.endswith("\n")


def test_a_changed_weight_changes_one_line_of_the_dump() -> None:
    first, second = a_tagger().features
    changed = a_tagger(features=(first, second.model_copy(update={"weights": (5.0,)})))
    before, after = (dump_tagger(t).splitlines() for t in (a_tagger(), changed))
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": None},
        {"fitted_on": {"other": 1}},
        {"description": "other words"},
        {"method": "another"},
        {"threshold": 0.9, "threshold_rule": "best F1"},
        {"features": tuple(f.model_copy(update={"tokens": ("other",)}) for f in a_tagger().features)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_evidence_and_prose_may_change_under_one_fingerprint(changes: dict[str, Any]) -> None:
    assert a_tagger(**changes).fingerprint == a_tagger().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "insults"},
        {"version": 2},
        {"axis": "custom"},
        {"labels": ("rude",)},
        {"encoder": "fedcba9876543210"},
        {"pooling": "mean"},
        {"sqrt": False},
        {"bias": (-1.25,)},
        {"features": a_tagger().features[:1]},
        {"features": (a_tagger().features[0], FeatureWeight(layer=4, feature=0, scale=12.0, weights=(-3e-9,)))},
        {"features": (a_tagger().features[0], FeatureWeight(layer=4, feature=0, scale=13.0, weights=(-2e-9,)))},
        {"features": (a_tagger().features[0], FeatureWeight(layer=4, feature=1, scale=12.0, weights=(-2e-9,)))},
        {"link": "identity"},
        {"rule": "any_of", "pooling": "any"},
        {"features": (a_tagger().features[0], FeatureWeight(layer=3, feature=0, scale=12.0, weights=(-2e-9,)))},
    ],
    ids=str,
)
def test_whatever_decides_a_tag_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert a_tagger(**changes).fingerprint != a_tagger().fingerprint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pooling": "median"}, "pooling: Input should be 'any', 'max', 'mean' or 'count'"),
        ({"name": "No Good"}, "name: String should match pattern"),
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"bias": [1.0, 2.0]}, "bias has 2 numbers, expected 1"),
        ({"labels": ["a", "b"]}, "a score has exactly one label"),
        ({"features": []}, "a tagger by the rule linear has features and no dense layers"),
        ({"rule": "any_of"}, "any_of gives a score, from the pooling 'any'"),
        ({"rule": "dense"}, "a tagger by the rule dense has dense layers and no features"),
        (
            {"features": [{"layer": 1, "feature": 2, "scale": 0, "weights": [1]}]},
            "features.0.scale: Input should be greater than 0",
        ),
        (
            {"features": [{"layer": 1, "feature": 2, "scale": 1, "weights": [1, 2]}]},
            "feature 1:2 has 2 weights, expected 1",
        ),
        (
            {"features": [{"layer": 1, "feature": 2, "scale": 1, "weights": [1]}] * 2},
            "feature 1:2 is listed twice",
        ),
        (
            {"features": [{"layer": 1, "feature": 2, "scale": 1, "weights": [float("nan")]}]},
            "features.0.weights.0: Input should be a finite number",
        ),
        ({"bias": [float("inf")]}, "bias.0: Input should be a finite number"),
    ],
)
def test_a_wrong_file_is_told_with_its_name_and_key(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "tagger.json"
    path.write_text(json.dumps(json.loads(dump_tagger(a_tagger())) | change))
    with pytest.raises(AssayError) as caught:
        load_tagger(path)
    assert caught.value.where == str(path)
    assert named in caught.value.what


def test_labels_that_repeat_are_refused() -> None:
    with pytest.raises(ValueError, match="labels repeat"):
        a_labeller(labels=("code", "code"))


@pytest.mark.parametrize("data", [b"{", b"\xff", b"", None])
def test_what_is_no_json_or_not_there_is_told_with_its_name(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "tagger.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(AssayError) as caught:
        load_tagger(path)
    assert caught.value.where == str(path)


def test_a_folder_gives_its_taggers_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(dump_tagger(a_tagger()))
    (tmp_path / "b.json").write_text(dump_tagger(a_labeller()))
    (tmp_path / "README.md").write_text("no tagger")
    assert [tagger.name for tagger in load_taggers(tmp_path)] == ["domain", "toxicity"]
    assert load_taggers(tmp_path / "a.json") == (a_tagger(),)


def test_two_taggers_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(dump_tagger(a_tagger()))
    with pytest.raises(AssayError, match=r"two taggers share a name: .*toxicity"):
        load_taggers(tmp_path)


def test_a_folder_without_taggers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no tagger"):
        load_taggers(tmp_path)


def test_a_tagger_of_an_older_store_is_read_without_its_evidence_and_keeps_its_name() -> None:
    old = {**a_tagger().model_dump(mode="json"), "evidence": {"summary": "wins", "held_out": {"auroc": 0.9}}}
    for later in ("rule", "link", "unit", "dense"):
        del old[later]
    read = Tagger.model_validate(old)
    assert read.evidence is None
    assert read.fingerprint == a_tagger().fingerprint
