"""Commands that check this machine and list what it knows: doctor, scopes."""

from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import ABOUT, FINDINGS, OK, AsJson, app, print_lines, print_table


@app.command(group=ABOUT)
def doctor(
    *,
    scope: Annotated[str, Parameter(help="the scope whose weights are checked")] = "embedded",
    store: Annotated[str | None, Parameter(help="also check this store")] = None,
    json: AsJson = False,
) -> int:
    """Check Python, torch, GPU, weights, Ray, Prefect and object storage, and say what to do."""
    import json as json_module

    from assay.flows.doctor import checkup

    found = []
    for check in checkup(scope, store):
        found.append(check)
        if not json:
            advice = f"\n       {check.advice}" if check.advice else ""
            print_lines([f"{check.state:4}  {check.name:8} {check.found}{advice}"])
    if json:
        print_lines([json_module.dumps([check.model_dump() for check in found], indent=1)])
    return FINDINGS if any(check.state == "fail" for check in found) else OK


@app.command(group=ABOUT)
def scopes(*, json: AsJson = False) -> int:
    """List the scopes that --scope knows: the embedded one and the published Qwen-Scope suites."""
    import json as json_module

    from assay.flows.scopes import load_scope, scope_names
    from assay.sae_runtime.suites import SUITES

    rows = []
    for name in scope_names():
        scope, suite = load_scope(name), SUITES.get(name)
        size = [suite.layers, suite.d_model, suite.d_sae, suite.k] if suite else ["", "", "", scope.k or ""]
        rows.append([name, scope.sae, scope.backbone, *size, " ".join(map(str, scope.layers))])
    head = ["scope", "sae", "backbone", "layers", "d_model", "d_sae", "k", "hooked"]
    if json:
        print_lines([json_module.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=1)])
    else:
        print_table(head, [[str(cell) for cell in row] for row in rows])
    return OK
