"""`assay validate`: every mistake of a recipe at once, each where it stands, with or without its store."""

import json
from pathlib import Path

import pytest

from assay.flows.cli import OK, USAGE
from assay.schemas.calibration import Calibration
from assay.schemas.recipe import recipe_schema
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import read_taggers
from tests.flows.conftest import Cli, Tagged

GOOD = """\
name: clean
sources:
  - {{store: {store}, name: web}}
rules:
  - name: short
    reason: too short
    drop_if: n_tokens < 60
  - name: toxic
    reason: abuse
    drop_if: >-
      toxicity > threshold("toxicity")
      and domain in ["news", "shop"]
      and feature(3, 7) >= 0
sample: {{fraction: 0.9, top: quality, within: domain}}
mixture:
  by: domain
  shares: {{code: 0.5, news: 0.5}}
output:
  path: {out}
  columns: [text, year]
"""


def write(tmp_path: Path, store: object, **changes: str) -> Path:
    """The recipe with each key of `changes` replaced by its value."""
    text = GOOD.format(store=store, out=tmp_path / "out")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "r.yaml"
    path.write_text(text, "utf-8")
    return path


def mistakes(cli: Cli, path: Path) -> list[str]:
    ran = cli("validate", path)
    assert ran.code == USAGE, ran.out
    return [line.removeprefix(f"{path}:") for line in ran.err.splitlines() if line.startswith(f"{path}:")]


def test_a_recipe_without_mistakes_is_told_so_and_what_comes_next(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    ran = cli("validate", write(tmp_path, tagged.store))
    assert ran.code == OK, ran.err
    assert ran.out.splitlines() == [
        f"{tmp_path / 'r.yaml'}: no mistake found",
        f"next: assay plan {tmp_path / 'r.yaml'}",
    ]
    assert not (tmp_path / "out").exists()


def test_mistakes_of_every_kind_are_told_at_once_each_where_it_stands(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    changes = {
        "name: clean": "nam: clean",
        "n_tokens < 60": "n_token < 60",
        'threshold("toxicity")': 'threshold("toxic")',
        '"shop"]': '"shoop"]',
        "feature(3, 7)": "feature(2, 7) + feature(3, 99999)",
        "top: quality": "top: domain",
        "within: domain": "within: domian",
        "by: domain": "by: domain\n  repeat: 2",
        "news: 0.5}": "sport: 0.5}",
        "[text, year]": "[text, yaer]",
    }
    found = mistakes(cli, write(tmp_path, tagged.store, **changes))
    wanted = [
        "1:1: nam: unknown key; did you mean 'name'?",
        "1:1: name: required key is missing",
        "7:14: rules.0.drop_if: unknown name 'n_token': did you mean 'n_tokens'?",
        "11:18: rules.1.drop_if: no threshold of 'toxic': did you mean 'toxicity'?",
        "12:30: rules.1.drop_if: domain is never 'shoop': did you mean 'shop'?",
        "13:11: rules.1.drop_if: layer 2 isn't hooked: the features have layers 1, 3",
        "13:27: rules.1.drop_if: layer 3 has features 0 to ",
        "14:30: sample.top: this is a text, not a number",
        "14:38: sample.within: no label tag 'domian': did you mean 'domain'?",
        "17:3: mixture.repeat: unknown key; did you mean 'max_repeat'?",
        "21:19: output.columns.1: no column 'yaer': did you mean 'year'?",
    ]
    assert len(found) == len(wanted), "\n".join(found)
    for line, start in zip(found, wanted, strict=True):
        assert line.startswith(start), line


@pytest.mark.parametrize(
    ("old", "new", "spot"),
    [
        ("name: web", "run: 0123456789abcdef", "3:"),
        ("name: web", "include: ['*nowhere*']", "3:"),
        ("news: 0.5}", "sport: 0.5}", "17:23: mixture.shares.sport: domain is never 'sport'"),
        ("by: domain", "by: quality", "16:3: mixture.by: no label tag 'quality'"),
        ("sample:", "calibrations: [nowhere.json]\nsample:", "14:16: calibrations.0: nowhere.json: can't read"),
    ],
)
def test_what_only_the_store_knows_is_told_where_it_stands(
    tagged: Tagged, cli: Cli, tmp_path: Path, old: str, new: str, spot: str
) -> None:
    found = mistakes(cli, write(tmp_path, tagged.store, **{old: new}))
    assert [line[: len(spot)] for line in found] == [spot], found


def test_a_store_that_is_not_there_is_a_mistake_and_the_rest_is_checked_without_it(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path, tmp_path / "nowhere", **{"n_tokens < 60": "n_tokens < 'x'"})
    ran = cli("validate", path)
    assert ran.code == USAGE
    assert f"{path}:3:6: sources.0.store: {tmp_path / 'nowhere'}: no Assay store here" in ran.err
    assert f"{path}:7:25: rules.0.drop_if: < compares numbers; this is a text, not a number" in ran.err
    assert "not checked: names of tags, labels and features were not checked: no store could be read" in ran.err


def test_a_store_out_of_reach_is_no_mistake_but_says_what_was_not_checked(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    ran = cli("validate", write(tmp_path, "s3://bucket/store"))
    assert ran.code == OK, ran.err
    assert "not checked: s3://bucket/store: " in ran.err


def test_a_calibration_takes_the_place_of_the_taggers_threshold_and_must_be_of_this_tagger(
    tagged: Tagged, cli: Cli, tmp_path: Path
) -> None:
    manifest = tagged.report.manifest
    assert manifest is not None
    tagger = next(t for t in read_taggers(ObjectStore(str(tagged.store)), manifest.tagset) if t.name == "toxicity")
    overlay = Calibration(
        tagger="toxicity", fingerprint=tagger.fingerprint, store="s", run="r", threshold=0.125, rule="share",
        target=0.1, documents=10, unknown=0,
    )  # fmt: skip
    (tmp_path / "cal.json").write_text(overlay.model_dump_json(), "utf-8")
    path = write(tmp_path, tagged.store, **{"sample:": f"calibrations: ['{tmp_path}/cal.json']\nsample:"})
    planned = cli("plan", path, "--json")
    assert planned.code == OK, planned.err
    assert json.loads(planned.out)["thresholds"] == {"toxicity": 0.125}
    other = overlay.model_copy(update={"fingerprint": "0" * 16})
    (tmp_path / "cal.json").write_text(other.model_dump_json(), "utf-8")
    (line,) = mistakes(cli, path)
    assert "calibrations.0: it was set on tagger toxicity 0000000000000000" in line


def test_mistakes_come_as_json_too(tagged: Tagged, cli: Cli, tmp_path: Path) -> None:
    ran = cli("validate", write(tmp_path, tagged.store, **{"n_tokens <": "n_tokns <"}), "--json")
    assert ran.code == USAGE
    (mistake,) = json.loads(ran.out)["mistakes"]
    assert (mistake["line"], mistake["column"]) == (7, 14)


def test_the_schema_is_printed_and_kept_in_docs(cli: Cli) -> None:
    ran = cli("validate", "--schema")
    assert ran.code == OK
    kept = Path(__file__).parents[2] / "docs" / "recipe.schema.json"
    assert kept.read_text("utf-8") == recipe_schema() + "\n" == ran.out, (
        "assay validate --schema > docs/recipe.schema.json"
    )
    schema = json.loads(ran.out)
    assert schema["properties"]["rules"]["items"] == {"$ref": "#/$defs/Rule"}
