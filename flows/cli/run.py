"""Commands that do long work on a corpus: demo, tag, train-sae."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.flows.cli.console import FINDINGS, OK, START, app, print_lines
from assay.schemas.parameters import TagOptions, TrainSaeParameters
from assay.schemas.store import TagManifest


@app.command(group=START)
def demo(
    *,
    folder: Annotated[Path, Parameter(help="where everything is written")] = Path("assay-demo"),
    documents: Annotated[int, Parameter(help="documents in the corpus")] = 1200,
    workers: Annotated[int | None, Parameter(help="Ray actors; by default one a core")] = None,
) -> int:
    """Make a corpus from this machine's own text, tag it, curate it, and report on it."""
    from assay.flows.curate import curation_lines
    from assay.flows.demo import run_demo
    from assay.flows.tag import summary_lines

    done = run_demo(folder, documents, workers)
    print_lines([*summary_lines(done.tagging), "", *curation_lines(done.curation), ""])
    print_lines(
        [
            f"wrote {folder}/corpus, {folder}/store, {folder}/curated, {folder}/report.html",
            "next:",
            f"  assay report {folder}/store",
            f"  assay explain {folder}/store written/spam-en-04",
            f"  edit {folder}/recipe.yaml (a new output.path), then: assay plan {folder}/recipe.yaml",
        ]
    )
    return OK


@app.command(group=START)
def tag(
    corpus: Annotated[str, Parameter(help="file, folder, glob, URI or Hugging Face dataset id")],
    *,
    options: Annotated[TagOptions, Parameter(name="*")],
) -> int:
    """Tag every document of a corpus. Run again, it does only what is missing."""
    from assay.flows.engine import run_flow
    from assay.flows.tag import summary_lines, tag_corpus
    from assay.schemas.parameters import TagParameters

    report = run_flow(tag_corpus, TagParameters(corpus=corpus, **options.model_dump()))
    print_lines([*summary_lines(report), f"next: assay report {options.store}"])
    return findings(report.manifest)


def findings(manifest: TagManifest | None) -> int:
    """The exit code of a tagging: 1 if a shard was unreadable or a document broke its worker."""
    from assay.workers.corpora.records import WORKER_REASONS

    if manifest is None:
        return OK
    broke = any(reason in manifest.quarantine_reasons for reason in WORKER_REASONS)
    return FINDINGS if broke or manifest.unreadable_shards else OK


@app.command(group=START)
def train_sae(
    *, parameters: Annotated[TrainSaeParameters, Parameter(name="*", consume_multiple=True, negative="")]
) -> int:
    """Train a TopK SAE for each of some layers of a backbone, and write a scope that tags with them."""
    from assay.flows.engine import run_flow
    from assay.flows.train_sae import train_sae as flow
    from assay.flows.train_sae import training_lines

    print_lines(training_lines(run_flow(flow, parameters)))
    return OK
