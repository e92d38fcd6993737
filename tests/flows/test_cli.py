"""The command line: quick help, exact errors, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assay.flows.cli import INTERRUPTED, OK, USAGE
from tests.flows.conftest import Cli
from tests.flows.corpora import ASSAY, assay_environment

COMMANDS = (
    "demo", "tag", "fit", "curate", "plan", "train-sae", "status", "explain", "report", "evidence", "audit",
    "doctor", "scopes", "definitions", "apply", "recompute", "calibrate", "retry", "fsck", "gc", "diff",
    "audit-recipe",
)  # fmt: skip
LOOK = """
import sys
from assay.flows import cli
for command in ([], *([name] for name in sys.argv[1:])):
    try:
        cli.app([*command, "--help"])
    except SystemExit as e:
        assert not e.code
print("LOADED", sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "ray", "prefect", "transformers"}))
"""


def test_help_of_every_command_loads_no_heavy_package(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOOK, *COMMANDS], env=assay_environment(tmp_path), capture_output=True, encoding="utf-8",
        check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == "LOADED []"
    for command in COMMANDS:
        assert f"Usage: assay {command}" in ran.stdout


def test_the_installed_command_runs(tmp_path: Path) -> None:
    ran = subprocess.run(
        [ASSAY, "--help"], env=assay_environment(tmp_path), capture_output=True, encoding="utf-8", check=True
    )
    for command in COMMANDS:
        assert command in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tag", "corpus", "--store", "s", "--worker", "2"], "--workers"),
        (["taag", "corpus"], "tag"),
        (["tag", "corpus"], "--store"),
        (["tag", "corpus", "--store", "s", "--workers", "0"], "greater than 0"),
        (["tag", "corpus", "--store", "s", "--workers", "two"], "two"),
        (["tag", "no-such-corpus", "--store", "s"], "no-such-corpus: no such file or folder"),
        (["tag", ".", "--store", "../s"], "no readable file was found"),
        (["tag", ".", "--store", "s", "--scope", "embeded"], "did you mean 'embedded'?"),
        (["tag", ".", "--store", "s", "--scope", "none.yaml"], "none.yaml: can't read this file"),
        (["tag", ".", "--store", "s", "--taggers", "none.json"], "none.json: can't read tagger"),
        (["plan", "."], "--store is missing"),
        (["plan", "none.yaml"], "none.yaml: can't read this file"),
        (["curate", "none.yaml"], "none.yaml: can't read this file"),
        (["status", "no-store"], "no-store: no Assay store here"),
        (["report", "no-store"], "no Assay store here"),
            (["tag", ".", "--store", "inner"], "the store lies in the corpus"),
            (["tag", ".", "--store", "../s", "--device", "gpu"], "no such device: 'gpu'"),
        (["diff", "no-store", "other"], "no-store: no Assay store here"),
        (["diff", "a", "b", "--max-drift", "-1"], "-1"),
        (["audit-recipe", "no-dataset"], "no-dataset: no curated dataset here"),
        (["explain", "no-store", "doc"], "no-store: no Assay store here"),
        (["audit", "no-store", "--tagger", "quality"], "no-store: no Assay store here"),
        (["audit", "no-store"], "--tagger"),
        (["evidence", "none.json"], "none.json: can't read tagger"),
        (["apply", "no-store", "--taggers", "t.json"], "no-store: no Assay store here"),
        (["apply", "no-store"], "--taggers"),
        (["recompute", "no-store"], "no-store: no Assay store here"),
        (["recompute", "no-store", "--workers", "0"], "greater than 0"),
        (["calibrate", "no-store", "--tagger", "t", "--share", "0.1"], "no-store: no Assay store here"),
        (["calibrate", "no-store", "--tagger", "t"], "give one of --share, --fpr and --precision"),
    ],
)  # fmt: skip
def test_a_mistake_exits_with_2_says_what_is_wrong_and_writes_nothing(
    arguments: list[str], message: str, cli: Cli, tiny_scope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "tag" and "--scope" not in arguments:
        arguments = [*arguments, "--scope", str(tiny_scope)]
    ran = cli(*arguments)
    assert ran.code == USAGE, ran
    assert message in ran.err + ran.out
    assert "Traceback" not in ran.err
    assert not list(tmp_path.iterdir())


def test_the_published_suites_and_the_embedded_scope_are_listed(cli: Cli) -> None:
    ran = cli("scopes", "--json")
    assert ran.code == OK
    rows = {row["scope"]: row for row in json.loads(ran.out)}
    assert len(rows) == 15
    assert rows["embedded"]["backbone"] == "embedded"
    for name, sae, layers, d_model, d_sae, k in (
        ("qwen3-1.7b-base-w32k-l0_50", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", 28, 2048, 32768, 50),
        ("qwen3-8b-base-w64k-l0_100", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_100", 36, 4096, 65536, 100),
        ("qwen3.5-27b-w80k-l0_50", "Qwen/SAE-Res-Qwen3.5-27B-W80K-L0_50", 64, 5120, 81920, 50),
        ("qwen3-30b-a3b-base-w128k-l0_100", "Qwen/SAE-Res-Qwen3-30B-A3B-Base-W128K-L0_100", 48, 2048, 131072, 100),
        ("qwen3.5-35b-a3b-base-w32k-l0_50", "Qwen/SAE-Res-Qwen3.5-35B-A3B-Base-W32K-L0_50", 40, 2048, 32768, 50),
    ):
        row = rows[name]
        assert (row["sae"], row["layers"], row["d_model"], row["d_sae"], row["k"]) == (sae, layers, d_model, d_sae, k)
    assert "qwen3-30b-a3b-base-w32k-l0_100" not in rows
    table = cli("scopes")
    assert table.code == OK
    assert all(name in table.out for name in rows)


def test_an_interrupted_command_says_that_the_same_command_continues(
    tiny_scope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    import assay.flows.tag

    def interrupt(_parameters: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assay.flows.tag, "plan_tagging", interrupt)
    ran = cli("tag", tmp_path / "corpus", "--store", tmp_path / "store", "--scope", tiny_scope)
    assert ran.code == INTERRUPTED
    assert "the same command continues" in ran.err
