"""`assay fit`: from a labelled file or a tagged store to a tagger file, with errors that say what to do."""

import json
import random
from pathlib import Path

import pytest

from assay.flows.cli import OK, USAGE
from assay.schemas.tagger import load_tagger
from tests.flows.conftest import Cli, Tagged

_PLAIN = "the people of this town have seen that there is more than one way to say it and some will go on"
_SPORT = "the team won the match and the player scored a goal in the game"
HOSTILE = "ham\x1b[2J\u202e<b>"


def write_labelled(path: Path, n: int = 90, labels: tuple[str, str] = ("spam", HOSTILE)) -> Path:
    """Texts with a planted theme; the first label is of those that have it."""
    draw, rows = random.Random(0), []
    for i in range(n):
        words = draw.choices(_PLAIN.split(), k=30)
        if i % 2:
            words.insert(draw.randrange(30), _SPORT)
        rows.append({"id": f"d{i}", "text": " ".join(words), "label": labels[i % 2 == 0], "lang": "en"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_labelled_file_becomes_a_tagger_and_the_model_runs_once(cli: Cli, ray_cluster: None, tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled.jsonl")
    common = ("--label-column", "label", "--positive", "spam", "--axis", "safety", "--name", "spam", "--features", "8",
              "--language-column", "lang", "--work", tmp_path / "work")  # fmt: skip
    first = cli("fit", labelled, *common, "-o", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert first.code == OK, first.err
    assert f"wrote {tmp_path / 'a.json'}" in first.out
    assert f"assay evidence {tmp_path / 'a.json'}" in first.out
    assert (tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    assert "tagging" in first.err
    tagger = load_tagger(tmp_path / "a.json")
    assert (tagger.name, tagger.axis, tagger.labels) == ("spam", "safety", ("spam",))
    assert tagger.evidence is not None
    assert "TF-IDF" in first.out
    assert tagger.evidence.test["auroc"].value > 0.9
    assert any(f.tokens for f in tagger.features)
    again = cli("fit", labelled, *common, "-o", tmp_path / "b.json")
    assert again.code == OK
    assert "tagging" not in again.err
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


def test_a_hostile_label_is_inert_in_the_terminal_and_whole_in_the_file(
    cli: Cli, ray_cluster: None, tmp_path: Path
) -> None:
    labelled = write_labelled(tmp_path / "labelled.jsonl")
    ran = cli("fit", labelled, "--label-column", "label", "--positive", HOSTILE, "--method", "any_of", "--no-tokens",
              "--no-residuals", "--work", tmp_path / "work", "-o", tmp_path / "t.json")  # fmt: skip
    assert ran.code == OK, ran.err
    assert all(c.isprintable() or c == "\n" for c in ran.out + ran.err)
    assert load_tagger(tmp_path / "t.json").labels == (HOSTILE,)


def test_a_tagged_store_is_fitted_on_without_the_model_and_its_floors_are_said(
    cli: Cli, tagged: Tagged, tmp_path: Path
) -> None:
    texts = tagged.corpus.documents
    lines = [json.dumps({"id": id, "text": text, "long": len(text) > 200}) for id, text in texts.items()]
    lines += [json.dumps({"id": f"absent-{n}", "text": f"not in the store {n}", "long": False}) for n in range(7)]
    (tmp_path / "labelled.jsonl").write_text("\n".join(lines), "utf-8")
    ran = cli("fit", tmp_path / "labelled.jsonl", "--label-column", "long", "--id-column", "id", "--method", "any_of",
              "--store", tagged.store, "--no-tokens", "-o", tmp_path / "t.json")  # fmt: skip
    assert ran.code == OK, ran.err
    assert "+ not found 7" in ran.out
    assert "lack features below their floor" in ran.out
    tagger = load_tagger(tmp_path / "t.json")
    assert tagger.encoder == tagged.report.manifest.encoder  # type: ignore[union-attr]
    assert tagger.fitted_on["not_found"] == 7
    assert tagger.fitted_on["documents_with_cut_features"] > 0
    no_dense = cli("fit", tmp_path / "labelled.jsonl", "--label-column", "long", "--id-column", "id", "--method",
                   "dense", "--store", tagged.store, "-o", tmp_path / "d.json")  # fmt: skip
    assert no_dense.code == USAGE
    assert "these features hold no residuals" in no_dense.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of: labelled documents, --definition, --all-definitions"),
        (["{file}"], "--label-column is missing"),
        (["{file}", "--label-column", "labl"], "did you mean 'label'? known: id, label, lang, text"),
        (["{file}", "--label-column", "lang"], "all 20 labels are 'en'"),
        (["{file}", "--label-column", "label"], "which label is the positive one?"),
        (["{file}", "--label-column", "label", "--positive", "eggs"], "no document has the label 'eggs'"),
        (["{file}", "--label-column", "label", "--positive", "spam", "--kind", "regression"], "positive belongs to"),
        (["{file}", "--label-column", "label", "--group-without", "("], "group_without is no regular expression"),
        (["--definition", "toxicty"], "did you mean 'toxicity'?"),
        (["--all-definitions", "defaults"], "did you mean 'default'?"),
        (["--all-definitions", "default", "--seed", "3"], "--seed: a set of definitions says that itself"),
        (["--definition", "davidson", "--label-column", "x"], "--label-column: a definition says that itself"),
        (["--definition", "davidson", "--kind", "regression"], "positive belongs to a binary tagger"),
        (["--definition", "reading_level", "--data", "{folder}"], "this labelled set is missing"),
    ],
)
def test_what_can_not_be_fitted_is_said_before_the_model_runs(
    cli: Cli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    labelled = write_labelled(tmp_path / "labelled.jsonl", 20)
    filled = [a.format(file=labelled, folder=tmp_path) for a in arguments]
    ran = cli("fit", *filled, "--work", tmp_path / "work", "-o", tmp_path / "t.json")
    assert ran.code == USAGE
    assert message in ran.err
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "t.json").exists()


def test_too_few_documents_of_a_label_are_an_error(cli: Cli, tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled.jsonl", 12)
    ran = cli("fit", labelled, "--label-column", "label", "--positive", "spam", "--work", tmp_path / "work")
    assert ran.code == USAGE
    assert "too few documents of a label" in ran.err


def test_the_ready_definitions_are_listed(cli: Cli) -> None:
    ran = cli("definitions", "--json")
    assert ran.code == OK
    assert {"toxicity", "textdetox", "educational_value"} <= {row["definition"] for row in json.loads(ran.out)}
    assert "openrail++" in cli("definitions").out
