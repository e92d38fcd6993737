"""Explanations of every rule, in the terminal and as Dolma's attributes, and text that can't leave its place."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from assay.flows.apply import apply_taggers
from assay.flows.recompute import recompute
from assay.schemas.parameters import ApplyParameters, RecomputeParameters
from assay.schemas.store import TagManifest
from assay.schemas.tagger import DenseLayer, FeatureWeight, Tagger, load_tagger
from tests.flows.conftest import Cli, tag_here, tag_parameters
from tests.flows.corpora import HOSTILE_ID, HOSTILE_TEXT, document

UNSEEN = re.compile(r"[^\n\x20-\x7e\xa0-\u200a\u2010-\u2027\u2030-\u205f\u2070-\uffff\U00010000-\U0010ffff]")
MARKUP = "[bold red]not red[/] [link=http://x]x[/link] :smile:"


class Explained(NamedTuple):
    """A small store with residuals, tagged by one tagger of each rule."""

    store: Path
    run: str
    recomputed: str
    """the run in which nothing is undecided"""
    taggers: dict[str, Tagger]
    texts: dict[str, str]


@pytest.fixture(scope="module")
def explained(tiny_scope: Path, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    folder = tmp_path_factory.mktemp("explained")
    texts = {f"doc-{n}": document(n) for n in range(4)} | {HOSTILE_ID: HOSTILE_TEXT, MARKUP: f"{MARKUP} {document(9)}"}
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join([*lines, '{"id": "half", "text": "\\ud800"}']) + "\n")
    scope = folder / "scope.yaml"
    scope.write_text(tiny_scope.read_text() + "residuals: true\n")
    manifest = tag_here(tag_parameters(folder / "corpus.jsonl", folder / "store", scope))
    quality = load_tagger(tiny_scope.parent / "taggers" / "quality.json")
    unread = FeatureWeight(layer=3, feature=1023, scale=1.0, weights=(5.0,), tokens=("\x1b[2J", MARKUP, "\u202e"))
    probe: dict[str, Any] = {"name": "probe", "rule": "dense", "features": (), "bias": (0.25,)}
    probe["dense"] = (DenseLayer(layer=1, weights=((0.5,) * 64,)), DenseLayer(layer=3, weights=((-0.25,) * 64,)))
    label: dict[str, Any] = {"name": "mood", "axis": "custom", "kind": "label", "labels": ("\x1b[31mred", MARKUP)}
    label |= {
        "bias": (0.0, 0.1),
        "features": tuple(f.model_copy(update={"weights": (1.0, -1.0)}) for f in quality.features),
    }
    made = [
        quality.model_copy(update={"name": "plain", "threshold": 0.4}),
        quality.model_copy(
            update={"name": "either", "rule": "any_of", "pooling": "any", "features": quality.features[:2]}
        ),
        quality.model_copy(update={"name": "cut", "features": (*quality.features, unread)}),
        quality.model_copy(update=probe),
        quality.model_copy(update=label),
    ]
    (folder / "taggers").mkdir()
    for tagger in made:
        (folder / "taggers" / f"{tagger.name}.json").write_text(tagger.model_dump_json())
    store = str(folder / "store")
    assert manifest.rows_quarantined == 1
    run = apply_taggers(ApplyParameters(store=store, taggers=str(folder / "taggers"))).manifest
    assert run.undecided == {"cut": len(texts)}
    again: TagManifest = recompute(RecomputeParameters(store=store, run=run.run, device="cpu", threads=1)).manifest
    return Explained(Path(store), run.run, again.run, {t.name: t for t in made}, texts)


def as_json(cli: Cli, explained: Explained, name: str, *more: str, run: str | None = None) -> dict[str, Any]:
    ran = cli("explain", explained.store, name, "--run", run or explained.run, "--device", "cpu", *more)
    assert ran.code == 0, ran.err
    assert not UNSEEN.findall(ran.out)
    return dict(json.loads(ran.out))


def test_each_rule_is_explained_by_what_it_reads(explained: Explained, cli: Cli) -> None:
    found = as_json(cli, explained, "doc-1", "--json")
    tags = {tag["name"]: tag for tag in found["tags"]}
    plain, either, probe = tags["plain"], tags["either"], tags["probe"]
    assert plain["threshold"] == 0.4
    weights = {(f.layer, f.feature): f.weights[0] for f in explained.taggers["plain"].features}
    assert plain["features"], "a document without a feature of the tagger says little"
    assert all(f["weight"] == weights[f["layer"], f["feature"]] for f in plain["features"])
    logit = plain["bias"] + sum(f["effect"] for f in plain["features"])
    assert plain["value"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-3)
    listed = {(f.layer, f.feature) for f in explained.taggers["either"].features}
    assert (either["value"] == 1.0) == any((f["layer"], f["feature"]) in listed for f in either["features"])
    assert probe["features"] == []
    logit = probe["bias"] + sum(layer["effect"] for layer in probe["layers"])
    assert probe["value"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-3)
    shown = cli("explain", explained.store, "doc-1", "--run", explained.run, "--device", "cpu").out
    assert "no place in the text made it" in shown
    assert re.search(r"plain: 0\.\d+ \((not )?above its threshold of 0\.4\), bias", shown)
    assert "cut: undecided" in shown


def test_dolmas_attributes_add_up_to_the_logit_and_lie_in_the_text(explained: Explained, cli: Cli) -> None:
    for name, text in explained.texts.items():
        found, full = as_json(cli, explained, name, "--dolma"), as_json(cli, explained, name, "--json")
        assert set(found) == {"id", "attributes"}
        assert found["id"] == name
        attributes = found["attributes"]
        for tag in full["tags"]:
            places = attributes[tag["name"]]
            assert all(0 <= start < end <= len(text) for start, end, _ in places)
            assert places == sorted(places)
            assert sum(s for _, _, s in places) == pytest.approx(sum(f["effect"] for f in tag["features"]), abs=1e-4)
        assert attributes["plain__document"] == [[0, len(text), pytest.approx(full["tags"][3]["value"], abs=1e-6)]]
        assert attributes["probe"] == []
        assert len(attributes["probe__document"]) == 1
        assert "cut__document" not in attributes
        assert len([n for n in attributes if n.startswith("mood__document__")]) == 1


def test_a_recomputed_document_is_explained_by_what_decided_it(explained: Explained, cli: Cli) -> None:
    before, after = (
        {tag["name"]: tag for tag in as_json(cli, explained, "doc-2", "--json", run=run)["tags"]}
        for run in (explained.run, explained.recomputed)
    )
    assert before["cut"]["value"] is None
    assert after["cut"]["value"] is not None
    logit = after["cut"]["bias"] + sum(f["effect"] for f in after["cut"]["features"])
    assert after["cut"]["value"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-3)
    assert after["plain"]["value"] == pytest.approx(before["plain"]["value"], abs=2e-3)


@pytest.mark.parametrize("name", [HOSTILE_ID, MARKUP])
def test_text_ids_labels_and_tokens_can_neither_move_the_cursor_nor_be_taken_for_markup(
    explained: Explained, cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    ran = cli("explain", explained.store, name, "--run", explained.recomputed, "--device", "cpu")
    assert ran.code == 0, ran.err
    without_style = re.sub(r"\x1b\[[0-9;]*m", "", ran.out)
    assert not UNSEEN.findall(without_style)
    assert "\x1b[31m" not in ran.out, "the colour of a label or a text"
    if name == MARKUP:
        assert MARKUP.split(" ", 1)[0] in without_style, "markup is shown as it stands"
    assert "mood: " in without_style


@pytest.mark.parametrize("name", ["\x1b[2Jno\u202e", "half\ud800", "\udcff", "nul\x00", MARKUP + "x"])
def test_an_id_that_no_document_has_is_told_harmlessly(explained: Explained, cli: Cli, name: str) -> None:
    ran = cli("explain", explained.store, name, "--run", explained.run, "--device", "cpu")
    assert ran.code == 2
    assert "no document" in ran.err
    assert not UNSEEN.findall(ran.err + ran.out)
