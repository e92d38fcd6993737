"""Corpus, store and dataset on a real S3 server with keys, by the command as a user runs it."""

import json
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from assay.flows.cli import FINDINGS, USAGE
from tests.conftest import S3Server
from tests.flows.conftest import Cli
from tests.flows.corpora import TRUNCATED, assay, assay_environment, write_corpus

RECIPE = """
name: on-s3
sources:
  - store: {root}/store
rules:
  - name: short
    reason: too short
    drop_if: n_tokens < 60
output:
  path: {root}/curated
  dropped: true
"""


def test_a_corpus_on_s3_is_tagged_and_curated_on_s3_with_the_keys_from_the_environment(
    s3: S3Server, s3_env: str, tiny_scope: Path, cli: Cli, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents=24)
    fs = s3fs.S3FileSystem()
    for path in corpus.path.iterdir():
        fs.pipe_file(f"{s3_env}/corpus/{'cut.jsonl.gz' if path.name == TRUNCATED else path.name}", path.read_bytes())
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment = assay_environment(tmp_path / "home", **aws)
    tag = ["tag", f"{s3_env}/corpus", "--store", f"{s3_env}/store", "--scope", tiny_scope, "--id-column", "id",
           "--workers", 1, "--device", "cpu"]  # fmt: skip
    tagged = assay(tmp_path, *tag, env=environment)
    assert tagged.returncode == FINDINGS, tagged.stderr  # cut.jsonl.gz
    assert f"kept {len(corpus.documents)} + dropped 0" in tagged.stdout
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(root=s3_env), "utf-8")
    curated = assay(tmp_path, "curate", recipe, "--workers", 1, env=environment)
    assert curated.returncode == FINDINGS, curated.stderr
    status = cli("status", f"{s3_env}/store", "--json")
    assert [run["finished"] for run in json.loads(status.out)] == [True]
    report = cli("report", f"{s3_env}/curated", "--json")
    kept = json.loads(report.out)["totals"]["rows_kept"]

    folder = s3_env.removeprefix("s3://")
    everything = {name: fs.cat_file(name) for name in fs.find(f"{s3_env}")}
    data = [body for name, body in sorted(everything.items()) if name.startswith(f"{folder}/curated/data/")]
    rows = pl.concat([pl.read_parquet(body) for body in data])
    assert 0 < rows.height == kept < len(corpus.documents)
    assert dict(zip(rows["assay_id"], rows["text"], strict=True)).items() <= corpus.documents.items()
    manifest = json.loads(everything[f"{folder}/curated/manifest.json"])
    assert manifest["kept"]["documents"] == kept

    local = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    written = [*everything.values(), *(path.read_bytes() for path in local)]
    written += [text.encode() for ran in (tagged, curated) for text in (ran.stdout, ran.stderr)]
    for word in (s3.key, s3.secret):
        assert not [body for body in written if word.encode() in _readable(body)]

    wrong = assay(tmp_path, *tag, env={**environment, "AWS_SECRET_ACCESS_KEY": "another/secret"})
    assert wrong.returncode == USAGE
    assert "AWS_SECRET_ACCESS_KEY" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    for word in (s3.key, s3.secret, "another/secret"):
        assert word not in wrong.stdout + wrong.stderr


def _readable(body: bytes) -> bytes:
    """The body, and as Parquet its text: compressed pages show no string."""
    if not body.startswith(b"PAR1"):
        return body
    table = pl.read_parquet(body)
    metadata = pq.read_schema(pa.BufferReader(body)).metadata
    return body + repr(table.to_dicts()).encode() + repr(metadata).encode()
