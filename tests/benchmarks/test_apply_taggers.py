"""The benchmark of applying taggers, small: what it writes is a store, and both contestants read the same columns."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_both_sets_of_taggers_are_timed_beside_the_scan_of_the_columns_that_they_read(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.apply_taggers", "--documents", "2500", "--features", "32", "--repeats", "1",
         "--folder", str(tmp_path), "--out", str(tmp_path / "out.json")],
        cwd=ROOT, env=os.environ | {"ASSAY_CACHE": str(tmp_path / "cache")}, check=True,
    )  # fmt: skip
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["documents"] == 2500
    assert set(record["cells"]) == {"watched", "unwatched"}
    for cell in record["cells"].values():
        assert len(cell["ratio_to_scan"]) == 1
        assert cell["documents_a_minute"] > 0
        assert cell["peak_rss"]["apply"] > 2**20
        assert "l1_ids" in cell["columns"]
        assert "l1_count" not in cell["columns"]
    watched, unwatched = record["cells"]["watched"], record["cells"]["unwatched"]
    assert watched["undecided"] == {}
    assert "l1_floor" not in watched["columns"]
    assert unwatched["undecided"]["domain"] > 0
    assert "l1_floor" in unwatched["columns"]
    assert len(list((tmp_path / "store").glob("runs/*"))) == 1, "each repetition's tags are taken away"
