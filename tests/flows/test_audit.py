"""An audit on made features, where what the tagger keys on was planted: it is found, named, and nothing else is."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assay.flows.audit import audit_tagger
from assay.flows.audit_run import INPUT, input_names
from assay.flows.cli import FINDINGS, OK, USAGE
from assay.flows.scopes import weights_are_here
from assay.schemas.audit import AuditReport, DimensionAudit
from assay.schemas.scope import Scope
from assay.schemas.tagger import Tagger
from tests.dashboard.test_report import HOSTILE, UNSEEN, Page
from tests.flows.conftest import Cli, Tagged
from tests.flows.made_store import Written, made_store
from tests.workers.feature_tables import Doc, dense, labeller, score

TOPIC = labeller(
    {(4, 0): (1.0, (3.0, 0.0, 0.0)), (4, 1): (1.0, (0.0, 3.0, 0.0)), (4, 2): (1.0, (0.0, 0.0, 3.0))}
)  # fmt: skip


TERMS = """
templates: {en: ["{Term} reads.", "This is {term}."]}
fillers: {en: [a person, a cook]}
terms:
  - {name: deaf, kind: disability, phrases: {en: a deaf woman}}
"""


def quality(weight: float, tokens: Sequence[str] = ("lorem",), **changes: Any) -> Tagger:
    """Reads feature 2:7 with this weight, and 2:1 to 2:3, which mean nothing, with 1 each."""
    made = score({(2, 7): (1.0, weight), **{(2, f): (1.0, 1.0) for f in (1, 2, 3)}}, **changes)
    features = tuple(f.model_copy(update={"tokens": tuple(tokens)}) if f.feature == 7 else f for f in made.features)
    return made.model_copy(update={"features": features})


def document(draw: random.Random, fires: bool, columns: dict[str, object] | None = None) -> Written:
    """A document with meaningless features, a topic, and feature 2:7 where it `fires`."""
    features = {(2, f): (draw.random(), 0.1, 1) for f in (1, 2, 3) if draw.random() < 0.5}
    features[(4, draw.randrange(3))] = (1.0, 0.5, 2)
    if fires:
        features[(2, 7)] = (0.9, 0.2, 3)
    return Written(Doc(features, tokens=draw.randrange(5, 400)), columns or {})


def planted(folder: Path, tagger: Tagger, names: Sequence[str] = ("books", "shop", "wiki"), n: int = 150) -> Path:
    """A corpus of as many folders as names; feature 2:7 fires in the second alone."""
    draw = random.Random(3)
    files = {f"{name}/a.jsonl": [document(draw, i == 1) for _ in range(n)] for i, name in enumerate(names)}
    return made_store(folder, files, [tagger, TOPIC])


def dimension(report: AuditReport, name: str) -> DimensionAudit:
    return next(d for d in report.dimensions if d.dimension == name)


def test_a_score_that_is_really_a_source_score_is_called_that_first_and_its_feature_is_blamed(tmp_path: Path) -> None:
    report = audit_tagger(str(planted(tmp_path, quality(4.0))), "quality")
    assert report.flagged
    assert report.findings[0].startswith("quality is largely an input score: input explains")
    assert "“shop”" in report.findings[0]
    assert "2:7 (fires on lorem)" in report.findings[0]
    found = dimension(report, INPUT)
    assert found.flagged
    assert found.explained > 0.5
    worst = found.groups[0]
    assert (worst.value, worst.documents, worst.flagged) == ("shop", 150, True)
    assert [(f.layer, f.feature) for f in worst.features] == [(2, 7)]
    assert worst.features[0].difference == pytest.approx(0.9 * 4.0, rel=0.02)
    assert worst.features[0].share > 0.9
    assert not dimension(report, "domain").flagged
    assert not dimension(report, "length").flagged
    assert report.documents == 450


def test_a_tagger_whose_features_fire_everywhere_alike_has_no_flag(tmp_path: Path) -> None:
    draw = random.Random(5)
    files = {f"{name}/a.jsonl": [document(draw, draw.random() < 0.3) for _ in range(150)] for name in ("a", "b", "c")}
    report = audit_tagger(str(made_store(tmp_path, files, [quality(4.0), TOPIC])), "quality")
    assert not report.flagged
    assert len(report.findings) == 1
    assert "nothing is flagged" in report.findings[0]
    assert not any(g.flagged for d in report.dimensions for g in d.groups)
    assert not any(g.features for d in report.dimensions for g in d.groups)


def test_a_column_of_the_corpus_is_audited_where_asked_for(tmp_path: Path) -> None:
    draw = random.Random(7)
    rows = [document(draw, i % 3 == 0, {"site": "spam.example" if i % 3 == 0 else f"s{i % 2}"}) for i in range(300)]
    store = str(made_store(tmp_path, {"a.jsonl": rows}, [quality(4.0), TOPIC]))
    assert "site" not in {d.dimension for d in audit_tagger(store, "quality").dimensions}
    found = dimension(audit_tagger(store, "quality", by=["site"]), "site")
    assert found.flagged
    assert found.groups[0].value == "spam.example"
    assert [(f.layer, f.feature) for f in found.groups[0].features] == [(2, 7)]


def test_a_score_that_counts_words_is_called_that(tmp_path: Path) -> None:
    draw = random.Random(9)
    lengths = [draw.randrange(5, 500) for _ in range(300)]
    rows = [Written(Doc({(2, 7): (tokens / 500, 0.1, 1)}, tokens=tokens)) for tokens in lengths]
    report = audit_tagger(str(made_store(tmp_path, {"a.jsonl": rows}, [quality(3.0)])), "quality")
    assert report.length[0].flagged
    assert report.length[0].correlation.value > 0.9
    assert any("rises with length: rank correlation +" in finding for finding in report.findings)


def test_a_label_that_goes_with_a_source_is_found_with_its_feature(tmp_path: Path) -> None:
    draw = random.Random(11)

    def row(topic: int) -> Written:
        return Written(Doc({(4, topic): (1.0, 0.5, 2), (2, 1): (draw.random(), 0.1, 1)}, tokens=20))

    files = {
        "mixed/a.jsonl": [row(draw.randrange(3)) for _ in range(150)],
        "code/a.jsonl": [row(0) for _ in range(150)],
    }
    report = audit_tagger(str(made_store(tmp_path, files, [TOPIC])), "domain")
    found = dimension(report, INPUT)
    assert found.flagged
    group = next(g for g in found.groups if g.value == "code")
    assert (group.label, group.mean, group.passing) == ("code", 1.0, None)
    assert (group.features[0].layer, group.features[0].feature) == (4, 0)
    assert "domain" not in {d.dimension for d in report.dimensions}, "a tagger isn't audited against itself"


def test_any_of_is_blamed_by_how_often_a_feature_fires(tmp_path: Path) -> None:
    tagger = quality(1.0, rule="any_of", pooling="any")
    tagger = tagger.model_copy(update={"features": tuple(f for f in tagger.features if f.feature == 7)})
    report = audit_tagger(str(planted(tmp_path, tagger)), "quality")
    worst = dimension(report, INPUT).groups[0]
    assert (worst.mean, worst.rest) == (1.0, 0.0)
    assert worst.features[0].difference == pytest.approx(1.0)


def test_documents_without_a_decided_tag_are_counted_and_left_out(tmp_path: Path) -> None:
    draw = random.Random(13)
    rows = [document(draw, False) for _ in range(60)]
    open_ = [Written(Doc({(4, 0): (1.0, 0.5, 2)}, floors={2: 0.9})) for _ in range(40)]
    report = audit_tagger(str(made_store(tmp_path, {"a/a.jsonl": rows, "b/b.jsonl": open_}, [quality(4.0)])), "quality")
    assert (report.documents, report.undecided) == (60, 40)
    assert {g.value: g.undecided for g in dimension(report, INPUT).groups} == {"a": 0, "b": 40}


def test_a_dense_probe_is_audited_without_features_and_the_report_says_so(tmp_path: Path) -> None:
    tagger = quality(4.0)
    store = planted(tmp_path, tagger)
    probe = dense({2: [[0.1, 0.2]]}, name="quality", axis="quality")
    key = store / "tags/t/taggers.json"
    key.write_text(json.dumps([probe.model_dump(mode="json"), TOPIC.model_dump(mode="json")]), "utf-8")
    report = audit_tagger(str(store), "quality")
    assert dimension(report, INPUT).flagged
    assert not any(g.features for d in report.dimensions for g in d.groups)
    assert any("none to blame" in note for note in report.notes)


def test_identity_terms_are_left_out_with_a_reason_where_the_weights_are_not_here(tmp_path: Path) -> None:
    report = audit_tagger(str(planted(tmp_path, quality(4.0))), "quality")
    assert report.identity is None
    assert any("Identity terms weren't tried" in note for note in report.notes)


def test_identity_terms_are_tried_by_default_where_the_weights_are_here(tagged: Tagged, tmp_path: Path) -> None:
    assert not weights_are_here(Scope(name="x", backbone="no-such-folder", sae="embedded", layers=(1,)))
    terms = tmp_path / "terms.yaml"
    terms.write_text(TERMS, "utf-8")
    report = audit_tagger(str(tagged.store), "toxicity", terms=terms, device="cpu")
    assert report.identity is not None
    assert report.identity.sentences == 2 * (2 + 1)
    assert [(t.term, t.example, t.sentences) for t in report.identity.terms] == [("deaf", "A deaf woman reads.", 2)]
    assert audit_tagger(str(tagged.store), "toxicity", terms=terms, device="cpu", identity=False).identity is None


def test_equal_stores_give_equal_audits_whatever_the_order_of_files(tmp_path: Path) -> None:
    store = planted(tmp_path, quality(4.0))
    assert audit_tagger(str(store), "quality") == audit_tagger(str(store), "quality")


def test_inputs_are_called_by_their_folder_or_by_their_name_where_there_is_one_folder() -> None:
    assert input_names(["/c/a.jsonl", "/c/b.jsonl"]) == {"/c/a.jsonl": "a.jsonl", "/c/b.jsonl": "b.jsonl"}
    assert input_names(["s3://b/c/x/1.parquet", "s3://b/c/y/z/1.parquet"]) == {
        "s3://b/c/x/1.parquet": "x",
        "s3://b/c/y/z/1.parquet": "y/z",
    }


def test_the_command_exits_with_1_where_something_is_flagged_and_writes_page_and_json(tmp_path: Path, cli: Cli) -> None:
    store, page = planted(tmp_path, quality(4.0)), tmp_path / "out" / "audit.html"
    ran = cli("audit", store, "--tagger", "quality", "--html", page)
    assert ran.code == FINDINGS
    assert ran.out.startswith("quality is largely an input score")
    assert f"wrote {page}" in ran.err
    assert "quality is largely an input score" in "".join(Page(page.read_text("utf-8")).text)
    ran = cli("audit", store, "--tagger", "quality", "--json")
    assert AuditReport.model_validate_json(ran.out).findings[0].startswith("quality is largely")
    ran = cli("audit", store, "--tagger", "quality")
    assert ran.out.lstrip().startswith("! quality is largely")
    assert "next: assay audit" in ran.out


def test_the_command_exits_with_0_where_nothing_is(tmp_path: Path, cli: Cli) -> None:
    assert cli("audit", planted(tmp_path, quality(0.0)), "--tagger", "quality").code == OK


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tagger", "qualty"], "did you mean 'quality'?"),
        (["--tagger", "quality", "--by", "sites"], "unknown column of the corpus 'sites'"),
        (["--tagger", "quality", "--run", "none"], "no finished run 'none'"),
    ],
)
def test_a_wrong_name_is_a_mistake_that_says_what_there_is(
    arguments: list[str], message: str, tmp_path: Path, cli: Cli
) -> None:
    ran = cli("audit", planted(tmp_path, quality(4.0)), *arguments)
    assert ran.code == USAGE
    assert message in ran.err


def test_hostile_sources_and_tokens_stay_inert_on_the_page_and_in_the_terminal(tmp_path: Path, cli: Cli) -> None:
    draw = random.Random(17)
    rows = [document(draw, i % 10 == 1, {"site": HOSTILE[i % 10]}) for i in range(600)]
    store = made_store(tmp_path, {"a.jsonl": rows}, [quality(4.0, HOSTILE), TOPIC])
    page = tmp_path / "audit.html"
    text = cli("audit", store, "--tagger", "quality", "--by", "site")
    assert not UNSEEN.search(text.out.replace("\n", ""))
    cli("audit", store, "--tagger", "quality", "--by", "site", "--html", page)
    source = page.read_text("utf-8")
    parsed = Page(source)
    assert not {name for name, _ in parsed.elements} & {"script", "a", "img", "iframe", "link", "object", "form"}
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    assert not UNSEEN.search(source)
    assert source.index("Content-Security-Policy") < source.index("<style>")
    assert HOSTILE[1] in "".join(parsed.text)
