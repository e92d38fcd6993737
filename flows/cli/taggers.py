"""Commands that make taggers: fit, definitions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from assay.flows.cli.console import ABOUT, OK, START, AsJson, app, print_lines, stdout, write_page
from assay.schemas.errors import AssayError
from assay.schemas.parameters import FitOptions, LabelOptions

if TYPE_CHECKING:
    from assay.flows.fit import FitReport
    from assay.schemas.definition import Definition

_TAGGER = Path("tagger.json")
_COLUMNS = {
    "label_column",
    "text_column",
    "id_column",
    "group_column",
    "group_without",
    "language_column",
    "source_column",
    "split_column",
}
_SHOWN = ("axis", "kind", "description", "license")


@app.command(group=START)
def fit(
    labelled: Annotated[str | None, Parameter(help="file, folder, glob, URI or dataset id with labels")] = None,
    *,
    labels: Annotated[LabelOptions | None, Parameter(name="*", consume_multiple=True, negative_iterable="")] = None,
    options: Annotated[FitOptions | None, Parameter(name="*", consume_multiple=True, negative_iterable="")] = None,
    definition: Annotated[str | None, Parameter(help="a ready definition (see `assay definitions`) or a file")] = None,
    all_definitions: Annotated[str | None, Parameter(help="a set of definitions, one tagger each")] = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="tagger file, or folder for a set")] = _TAGGER,
    html: Annotated[Path | None, Parameter(help="write the evidence as one HTML page (of a set: a folder)")] = None,
) -> int:
    """Fit a tagger to labelled documents, and measure it beside plain baselines on documents kept aside."""
    definitions = _definitions(labelled, labels or LabelOptions(), definition, all_definitions)
    _require_extra()
    from assay.dashboard.evidence_page import evidence_page
    from assay.dashboard.evidence_text import evidence_text
    from assay.flows.engine import run_flow
    from assay.flows.fit import fit_tagger
    from assay.flows.output import require_place, write_whole
    from assay.schemas.parameters import FitParameters
    from assay.schemas.tagger import dump_tagger

    given = (options or FitOptions()).model_dump()
    folder = all_definitions is not None
    for one in definitions:
        require_place(out / f"{one.name}.json" if folder else out)
        if html is not None:
            require_place(html / f"{one.name}.html" if folder else html)
    for one in definitions:
        report: FitReport = run_flow(fit_tagger, FitParameters(definition=one, **given))
        path = out / f"{one.name}.json" if folder else out
        write_whole(path, dump_tagger(report.tagger))
        print_lines([*report.lines, ""])
        stdout().print(evidence_text(report.tagger))
        print_lines(["", f"wrote {path}"])
        if html is not None:
            write_page(html / f"{one.name}.html" if folder else html, evidence_page(report.tagger))
    target = out if folder or out.parent == Path() else out.parent
    tag = f"assay apply {given['store']}" if given["store"] else "assay tag CORPUS --store STORE"
    print_lines(["next:", f"  assay evidence {path}", f"  {tag} --taggers {target}"])
    return OK


@app.command(group=ABOUT)
def definitions(*, json: AsJson = False) -> int:
    """List the ready definitions of taggers that `assay fit --definition` knows."""
    import json as json_module

    from assay.flows.definitions import definition_names, load_definition

    rows = []
    for name, path in definition_names().items():
        one = load_definition(name)
        rows.append({"definition": name, "set": path.parent.name, **one.model_dump(include=set(_SHOWN))})
    if json:
        print_lines([json_module.dumps(rows, indent=1)])
    else:
        for row in rows:
            print_lines(
                [f"{row['definition']:22} {row['set']:8} {row['axis']:9} {row['description']} ({row['license']})"]
            )
    return OK


def _definitions(
    labelled: str | None, labels: LabelOptions, definition: str | None, all_definitions: str | None
) -> list["Definition"]:
    from assay.flows.definitions import definition_set, load_definition

    if sum(given is not None for given in (labelled, definition, all_definitions)) != 1:
        raise AssayError(
            "give one of: labelled documents, --definition, --all-definitions",
            hint="assay fit labelled.jsonl --label-column label --axis safety -o tagger.json",
        )
    if labelled is not None:
        return [_of_options(labelled, labels)]
    given = labels.model_dump(exclude_defaults=True)
    if all_definitions is not None:
        _refuse(set(given), "a set of definitions")
        return definition_set(all_definitions)
    _refuse(set(given) & _COLUMNS, "a definition")
    return [_checked(load_definition(str(definition)).model_dump() | _wanted(given))]


def _require_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("sklearn", "scipy") if find_spec(name) is None]
    if missing:
        raise AssayError(f"fitting needs {' and '.join(missing)}", hint="pip install 'assay[fit]'")


def _of_options(labelled: str, labels: LabelOptions) -> "Definition":
    """The definition that the flags describe."""
    import re

    if labels.label_column is None:
        raise AssayError("--label-column is missing", hint="it names the column with the labels")
    name = labels.name or re.sub(r"[^a-z0-9_]", "_", labels.label_column.lower()).lstrip("_0123456789")[:40] or "tag"
    given = labels.model_dump()
    source = {"corpus": labelled, **{column: given.pop(column) for column in _COLUMNS}}
    return _checked({**_wanted(given), "name": name, "sources": [source]})


def _wanted(given: dict[str, Any]) -> dict[str, Any]:
    """What flags say in a definition's own words."""
    ordinal = given.get("kind") == "ordinal" or (given.get("order") and not given.get("kind"))
    return given | {"kind": "regression"} if ordinal else given


def _checked(values: dict[str, Any]) -> "Definition":
    from pydantic import ValidationError

    from assay.schemas.definition import Definition

    try:
        return Definition.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        where = "".join(f"--{part}".replace("_", "-") for part in first["loc"][:1])
        raise AssayError(first["msg"].removeprefix("Value error, "), where=where) from e


def _refuse(given: set[str], what: str) -> None:
    """AssayError for flags that would have no effect."""
    if given:
        flags = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in given))
        raise AssayError(f"{flags}: {what} says that itself", hint="copy its file and change it there")
