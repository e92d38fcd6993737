"""The pages in docs/ against the code: what they list is what there is, and nothing else."""

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest
from prefect import Task
from ruamel.yaml import YAML

from assay.flows import curate, tag
from assay.flows.failures import FailureLog
from assay.flows.tag import plan_shards, seal_run, tag_job
from assay.sae_runtime.runtime import Runtime
from assay.schemas.base import Model
from assay.schemas.definition import Definition
from assay.schemas.parameters import CurateParameters, TagParameters
from assay.schemas.recipe import Recipe
from assay.schemas.scope import Scope
from assay.schemas.statistics import STATISTICS, TagColumn
from assay.schemas.tagger import FeatureWeight, Tagger, dump_tagger
from assay.schemas.yaml_file import load_yaml
from assay.workers.corpora.records import REASONS, BadRecord
from assay.workers.curate_job import CurateJob
from assay.workers.curating import ShardCurator, output_schema
from assay.workers.feature_table import features_schema
from assay.workers.storage.objects import ObjectStore
from assay.workers.stores import open_store
from assay.workers.tagger_set import TaggerSet
from assay.workers.tagging import ShardTagger
from tests.checkpoints import save_checkpoint, save_saes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FORMAT, ARCHITECTURE, DEPENDENCIES = (
    (DOCS / f"{name}.md").read_text("utf-8") for name in ("data-format", "architecture", "dependencies")
)
PAGES = sorted(DOCS.glob("*.md")) + [path for path in [ROOT / "README.md"] if path.exists()]
FLOORS = ("flows", "dashboard", "taggers", "workers", "sae_runtime", "schemas")
MAY_IMPORT = {
    "flows": {"dashboard", "taggers", "workers", "sae_runtime", "schemas"},
    "dashboard": {"schemas"},
    "taggers": {"workers", "sae_runtime", "schemas"},
    "workers": {"sae_runtime", "schemas"},
    "sae_runtime": {"schemas"},
    "schemas": set(),
}
MAY_NOT_IMPORT = {
    "sae_runtime": {"ray", "prefect"},
    "taggers": {"ray", "prefect"},
    "workers": {"prefect"},
    "dashboard": {"ray", "prefect", "torch", "transformers"},
    "schemas": {"ray", "prefect", "torch", "transformers", "fsspec", "polars", "sklearn"},
}
NOT_WRITTEN = {"Piece", "OutputShard"}  # units of work that a run holds in memory only

Row = list[str]


def tables(section: str) -> Iterator[list[Row]]:
    """The cells of each Markdown table of a section, header first."""
    table: list[Row] = []
    for line in [*section.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not set("".join(cells)) <= set("-: "):
                table.append(cells)
        elif table:
            yield table
            table = []


def sections(page: str) -> dict[str, str]:
    """Heading -> the text below it, up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows_of(page: str, *head: str) -> list[Row]:
    """The rows of every table of a page with this header."""
    return [row for table in tables(page) if table[0] == list(head) for row in table[1:]]


def named(cell: str) -> str:
    """What a cell names: `name` without its quotes."""
    match = re.fullmatch(r"`([^`]+)`", cell)
    assert match, f"{cell!r} is not one name in backticks"
    return match[1]


FORMAT_SECTIONS = sections(FORMAT)
MODEL_SECTIONS = {h.strip("`"): text for h, text in FORMAT_SECTIONS.items() if re.fullmatch(r"`\w+`", h)}


def exchanged_models() -> dict[str, type[Model]]:
    found = {}
    for part in (
        "audit",
        "calibration",
        "corpus",
        "curation",
        "definition",
        "drift",
        "evidence",
        "loss",
        "recipe",
        "scope",
        "statistics",
        "store",
        "tagger",
    ):
        module = import_module(f"assay.schemas.{part}")
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Model) and value.__module__ == module.__name__ and name not in NOT_WRITTEN:
                found[name] = value
    return found


MODELS = exchanged_models()


def test_every_exchanged_model_is_described_and_no_other() -> None:
    assert set(MODEL_SECTIONS) == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_described_with_all_its_fields_and_their_defaults(name: str) -> None:
    (table,) = tables(MODEL_SECTIONS[name])
    assert table[0] == ["field", "type", "default", "meaning"]
    described = {named(field): default for field, _, default, _ in table[1:]}
    assert described == {field: default_cell(info) for field, info in MODELS[name].model_fields.items()}
    assert len(described) == len(table) - 1, "a field is described twice"


def default_cell(info: object) -> str:
    if info.is_required():  # type: ignore[attr-defined]
        return "required"
    value = info.get_default(call_default_factory=True)  # type: ignore[attr-defined]
    return f"`{json.dumps(value.model_dump(mode='json') if isinstance(value, Model) else value)}`"


def columns_of(heading: str) -> dict[str, str]:
    table = next(tables(FORMAT_SECTIONS[heading]))
    assert table[0] == ["column", "type", "meaning"]
    return {named(name): kind for name, kind, _ in table[1:]}


def arrow_columns(schema: pa.Schema) -> dict[str, str]:
    return {f.name: re.sub(r"list<\w+: (\w+)>(\[\d+\])?", r"list<\1>", str(f.type)) for f in schema}


def test_the_columns_of_the_features_table_are_described() -> None:
    real = {re.sub(r"^l7_", "l{layer}_", n): kind for n, kind in arrow_columns(features_schema([7], 8)).items()}
    assert columns_of("Columns of the features table") == real


def test_the_columns_of_the_tags_table_are_described() -> None:
    score, label = (a_tagger(name, kind, "f" * 16) for name, kind in (("score", "score"), ("label", "label")))
    tags = TaggerSet([score, label], "f" * 16).apply(features_schema([2, 3]).empty_table())
    real = {re.sub(r"^(score|label)", r"{\1}", n): kind for n, kind in arrow_columns(tags.schema).items()}
    assert columns_of("Columns of the tags table") == real


def test_the_columns_of_the_statistics_table_are_described() -> None:
    assert columns_of("Columns of the statistics table") == arrow_columns(STATISTICS)


def test_the_columns_of_the_quarantine_file_are_described() -> None:
    assert tuple(columns_of("Columns of the quarantine file")) == BadRecord._fields


def test_the_columns_that_curation_adds_are_described() -> None:
    recipe = Recipe.model_validate({"name": "x", "sources": [{"store": "s"}], "output": {"path": "p"}})
    tags = (TagColumn(name="score", axis="quality", kind="score"), TagColumn(name="label", axis="domain", kind="label"))
    schema = output_schema(CurateJob(recipe, "f" * 16, (), tags, {}))
    real = {re.sub(r"_(score|label)", r"_{\1}", n): kind for n, kind in arrow_columns(schema).items()}
    own = {"assay_copy": "int32", "assay_rule": "string"}
    assert columns_of("Columns added to a curated dataset") == {**real, **own}


def test_every_reason_for_quarantine_is_described_as_the_code_does() -> None:
    assert {named(reason): meaning for reason, meaning in rows_of(FORMAT, "reason", "meaning")} == REASONS


def test_every_dependency_has_a_reason_and_no_other_package_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    lines = (ROOT / "tests/requirements.txt").read_text("utf-8").splitlines()
    wanted += [line for line in lines if re.match(r"[A-Za-z]", line)]
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in wanted} - {project["project"]["name"]}  # type: ignore[index]
    listed = [named(row[0]) for row in rows_of(DEPENDENCIES, "package", "why", "what would replace it")]
    assert sorted(listed) == sorted(names)


def test_the_pins_that_are_explained_are_those_of_the_files() -> None:
    declared = (ROOT / "pyproject.toml").read_text() + (ROOT / "constraints.txt").read_text()
    for pin in re.findall(r"^- `([\w.-]+[=<>]+[\w.]+)`", DEPENDENCIES, flags=re.M):
        assert pin in declared, pin


def modules(floor: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / floor).rglob("*.py")))


def test_every_module_that_the_architecture_names_is_on_its_floor() -> None:
    listed = rows_of(ARCHITECTURE, "floor", "file", "what it does")
    assert listed
    for floor, file, _ in listed:
        where = [path for path in modules(named(floor)) if path.as_posix().endswith(f"/{named(file)}")]
        assert where, f"{file} is not in {floor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_project_that_a_page_names_exists(page: Path) -> None:
    files = [path.as_posix() for floor in (*FLOORS, "tests") for path in modules(floor)]
    for name in re.findall(r"`([\w./-]+\.py)`", page.read_text("utf-8")):
        assert any(file.endswith(f"/{name}") for file in files), name


def test_the_floors_are_described_as_they_are_checked() -> None:
    table = rows_of(ARCHITECTURE, "floor", "may import", "what it is")
    assert {named(floor): set(re.findall(r"`(\w+)`", below)) for floor, below, _ in table} == MAY_IMPORT


def test_the_tasks_that_prefect_sees_are_those_that_are_described() -> None:
    tasks = [value.name for flow in (tag, curate) for value in vars(flow).values() if isinstance(value, Task)]
    assert sorted(re.findall(r'"([a-z ]+)"', sections(ARCHITECTURE)["Prefect"])) == sorted(tasks)


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_only_go_down(floor: str) -> None:
    wrong = []
    for path in modules(floor):
        for name in imported(path):
            top, _, rest = name.partition(".")
            part = rest.partition(".")[0]
            below = top == "assay" and part not in MAY_IMPORT[floor] | {floor, "configs"}
            if below or top in MAY_NOT_IMPORT.get(floor, ()):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in {slug(h) for h in sections(target.read_text("utf-8"))}, link


PROMISES = [(page, line) for page in ("guarantees", "security") for line in re.findall(
    r"`(tests/[\w/.]+::\w+)`", (DOCS / f"{page}.md").read_text("utf-8"))]  # fmt: skip


def test_every_promise_names_a_test() -> None:
    for page in ("guarantees", "security"):
        for table in tables((DOCS / f"{page}.md").read_text("utf-8")):
            assert table[0][-1] == "test"
            assert all(re.fullmatch(r"`tests/[\w/.]+::\w+`", row[-1]) for row in table[1:]), page
    assert len(PROMISES) > 80


@pytest.mark.parametrize(("page", "name"), sorted(set(PROMISES)))
def test_the_test_that_holds_a_promise_exists(page: str, name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def slug(heading: str) -> str:
    """The anchor that a Markdown renderer gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def code(heading: str, language: str) -> list[str]:
    """The fenced blocks of a language below a heading of the data format page."""
    body = FORMAT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", body, flags=re.M | re.S)


def test_the_examples_of_a_scope_a_tagger_and_a_recipe_are_valid(tmp_path: Path) -> None:
    for heading, model in (("Scope file", Scope), ("Definition file", Definition), ("Recipe file", Recipe)):
        (text,) = code(heading, "yaml")
        (tmp_path / "example.yaml").write_text(text, "utf-8")
        load_yaml(tmp_path / "example.yaml", model)
    (text,) = code("Tagger file", "json")
    Tagger.model_validate_json(text)


def a_tagger(name: str, kind: str, encoder: str, features: tuple[tuple[int, int], ...] = ((2, 0), (3, 1))) -> Tagger:
    labels = ("yes",) if kind == "score" else ("code", "prose")
    weights = tuple(1.0 if i == 0 else -1.0 for i in range(len(labels)))
    return Tagger(
        name=name, axis="quality" if kind == "score" else "domain", kind=kind, description="", labels=labels,
        encoder=encoder, pooling="max", sqrt=False, bias=tuple(0.0 for _ in labels), method="by hand",
        features=tuple(FeatureWeight(layer=la, feature=f, scale=1.0, weights=weights) for la, f in features),
    )  # fmt: skip


class Written(NamedTuple):
    """Where a small run and a curation of it lie."""

    folder: Path
    store: Path
    curated: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A store and a dataset in the folders of the demo, written by the workers' plain classes."""
    folder = tmp_path_factory.mktemp("docs")
    demo = folder / "assay-demo"
    corpus = demo / "corpus"
    corpus.mkdir(parents=True)
    lines = [json.dumps({"text": f"the quick brown fox number {n} " * (1 + n % 5)}) for n in range(60)]
    (corpus / "a.jsonl").write_text("\n".join([*lines, "not JSON"]) + "\n", "utf-8")
    scope = a_scope(folder / "scope")
    parameters = TagParameters(
        corpus=str(corpus), store=str(demo / "store"), scope=str(scope), shard_mb=0.002, device="cpu"
    )
    plan = plan_shards.fn(parameters)
    tagger = ShardTagger(tag_job(plan))
    for number, shard in enumerate(plan.corpus.shards):
        tagger.process(shard, f"attempt-{number}")
    seal_run.fn(plan)
    FailureLog(ObjectStore(parameters.store), plan.run).add(plan.corpus.shards[0], "planted")
    recipe = {
        "name": "demo",
        "sources": [{"store": str(demo / "store")}],
        "rules": [{"name": "short", "reason": "short", "drop_if": "n_bytes < 60"}],
        "output": {"path": str(demo / "curated"), "shard_mb": 0.002, "dropped": True},
    }
    preview = curate.survey.fn(CurateParameters(recipe=Recipe.model_validate(recipe)))
    curate.claim_output.fn(preview)
    curator = ShardCurator(preview.job, tuple(manifest.shards for manifest in preview.prepared.manifests))
    for unit in preview.shards:
        curator.process(unit, "attempt")
    curate.seal_dataset.fn(preview)
    return Written(folder, demo / "store", demo / "curated")


def a_scope(folder: Path) -> Path:
    """A scope file over a random model, with a score and a label tagger."""
    save_checkpoint(folder / "model", "qwen3")
    save_saes(folder / "saes", [2, 3])
    values = {"name": "docs", "backbone": str(folder / "model"), "sae": str(folder / "saes"), "layers": [2, 3]}
    values |= {"window": 64, "overlap": 16, "top_m": 16, "batch_tokens": 512, "taggers": str(folder / "taggers")}
    encoder = Runtime(Scope.model_validate(values), device="cpu").encoder_fingerprint
    (folder / "taggers").mkdir()
    for name, kind in (("quality", "score"), ("domain", "label")):
        (folder / "taggers" / f"{name}.json").write_text(dump_tagger(a_tagger(name, kind, encoder)), "utf-8")
    path = folder / "docs.yaml"
    with path.open("w", encoding="utf-8") as out:
        YAML(typ="safe", pure=True).dump(values, out)
    return path


def tree(heading: str) -> list[str]:
    """The files of the tree below a heading, as regular expressions."""
    (block,) = code(heading, "tree")
    patterns, folders = [], []
    for line in block.splitlines():
        name = line.strip()
        folders[(len(line) - len(name)) // 2 :] = [name]
        if not name.endswith("/"):
            path = re.escape("".join(folders)).replace(r"\{", "{").replace(r"\}", "}")
            patterns.append(re.sub(r"\{(\w+)\}", lambda m: PLACEHOLDERS.get(m[1], "[0-9a-f]{16}"), path))
    return patterns


PLACEHOLDERS = {"hash": "[0-9a-f]{12}", "index": "[0-9]{5}", "count": "[0-9]{5}"}


@pytest.mark.parametrize(("heading", "part"), [("The store", "store"), ("The curated dataset", "curated")])
def test_the_tree_names_every_file_and_no_file_that_is_not_written(written: Written, heading: str, part: str) -> None:
    root = getattr(written, part)
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    patterns = tree(heading)
    assert [file for file in files if not any(re.fullmatch(p, file) for p in patterns)] == []
    assert [p for p in patterns if not any(re.fullmatch(p, file) for file in files)] == []


def test_the_roles_of_objects_are_those_that_are_described(written: Written) -> None:
    commits = [*written.store.glob("*/*/commits/*.json"), *written.curated.glob("_assay/commits/*.json")]
    roles = {role for path in commits for role in json.loads(path.read_bytes())["objects"]}
    (sentence,) = re.findall(r"^Roles are (.*?)\.$", FORMAT, flags=re.M | re.S)
    assert set(re.findall(r"`(\w+)`", sentence)) == roles


def test_a_store_marker_and_an_identity_are_what_is_described(written: Written) -> None:
    open_store(str(written.store))
    assert f"`{(written.store / 'assay-store.json').read_text().strip()}`" in FORMAT
    identity = json.loads(next(written.store.glob("features/*/identity.json")).read_bytes())
    assert set(identity) == {"encoder", "features", "scope"}
    record = json.loads((written.curated / "_assay/recipe.json").read_bytes())
    assert set(record) == {"fingerprint", "recipe"}


@pytest.mark.parametrize("number", range(3))
def test_the_snippets_run(written: Written, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = code("Reading it", "python")
    assert len(snippets) == 3
    monkeypatch.chdir(written.folder)
    exec(compile(snippets[number], f"docs/data-format.md snippet {number}", "exec"), {})


def test_the_runtime_runs_alone_as_its_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (DOCS / "runtime.md").read_text("utf-8"), flags=re.S)
    exec(compile(snippet, "docs/runtime.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
