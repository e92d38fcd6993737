"""The documents beside a recipe's numbers: the nearest ones, over shards, that the number decides about."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from assay.schemas.expression import parse_expression
from assay.workers.near_thresholds import Cut, NearestDocuments, cuts_of
from assay.workers.rules import KEPT

from .test_losses import documents


def test_the_documents_nearest_to_a_threshold_are_found_over_shards_on_both_sides() -> None:
    cut = Cut(rule=1, column="quality", value=0.25)
    near = NearestDocuments([cut], most=4)
    frames = []
    for shard in range(3):
        tags = documents(shard, 200)
        quality = tags["quality"].to_numpy()
        verdict = np.where(tags["n_tokens"].to_numpy() < 40, 0, np.where(quality < 0.25, 1, KEPT)).astype(np.int32)
        near.add(0, shard, tags, verdict)
        frames.append(pl.DataFrame(pl.from_arrow(tags)).with_columns(by=pl.Series(verdict)))
    open_ = pl.concat(frames).filter(pl.col("by") != 0)  # what the first rule drops is no matter of this one
    for side, kept in ((pl.col("quality") < 0.25, near.below), (pl.col("quality") >= 0.25, near.above)):
        expected = open_.filter(side).sort((pl.col("quality").cast(pl.Float64) - 0.25).abs()).head(4)
        assert [n.doc_id for n in kept[cut]] == expected["doc_id"].to_list()
        assert [n.verdict for n in kept[cut]] == expected["by"].to_list()


def test_documents_without_the_value_are_not_near_it() -> None:
    tags = pa.table({"row": [0, 1], "doc_id": ["a", "b"], "quality": pa.array([None, 0.5], pa.float32())})
    cut = Cut(rule=0, column="quality", value=0.4)
    near = NearestDocuments([cut], most=3)
    near.add(0, 0, tags, np.full(2, KEPT, np.int32))
    assert near.below[cut] == [] and [n.doc_id for n in near.above[cut]] == ["b"]


@pytest.mark.parametrize(
    ("expression", "cuts"),
    [
        ("quality < 0.02", [("quality", 0.02)]),
        ('toxicity > 0.08 and language == "en"', [("toxicity", 0.08)]),
        ('0.3 >= quality or not (n_tokens < 60 or quality < threshold("quality"))',
         [("quality", 0.3), ("n_tokens", 60), ("quality", 0.7)]),
        ("feature(3, 17) > 2 and domain in ['code']", []),
    ],
)  # fmt: skip
def test_the_cuts_of_an_expression_are_the_numbers_that_columns_are_compared_with(
    expression: str, cuts: list[tuple[str, float]]
) -> None:
    assert list(cuts_of(parse_expression(expression), {"quality": 0.7})) == cuts
