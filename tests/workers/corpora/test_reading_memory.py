"""Reading holds one line or one batch, however big the object is."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_READ = """
import resource, sys
from assay.schemas.corpus import ReadOptions
from assay.workers.corpora.planning import plan_corpus
from assay.workers.corpora.reading import read_documents

def read(path):
    options = ReadOptions()
    plan = plan_corpus(path, options, 40 * 2**20)
    return sum(1 for shard in plan.shards for _ in read_documents(shard, options))

read(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = read(sys.argv[2])
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="ru_maxrss has other units there")
@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
def test_peak_memory_does_not_grow_with_the_object(tmp_path: Path, kind: str) -> None:
    for name, count in (("small", 500), ("big", 60_000)):
        documents = [f"{i} " + "some text of a document " * 80 for i in range(count)]
        path = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"text": documents}), path, use_dictionary=False)
        else:
            with gzip.open(path, "wt", compresslevel=1) as file:
                file.writelines(json.dumps({"text": text}) + "\n" for text in documents)
    command = [sys.executable, "-c", _READ, str(tmp_path / f"small.{kind}"), str(tmp_path / f"big.{kind}")]
    count, growth = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(count) == 60_000
    assert int(growth) < 64, "MiB, for 115 MB of text"
