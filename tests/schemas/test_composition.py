import numpy as np
import pyarrow as pa
import pytest

from assay.schemas.composition import Composition
from assay.schemas.statistics import TagColumn, merge, shard_statistics

COLUMNS = (
    TagColumn(name="quality", axis="quality", kind="score"),
    TagColumn(name="toxicity", axis="safety", kind="score"),
    TagColumn(name="domain", axis="domain", kind="label"),
    TagColumn(name="language", axis="language", kind="label"),
    TagColumn(name="register", axis="custom", kind="label"),
)


def corpus(documents: int = 3000, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    toxicity = random.beta(0.4, 4, documents)
    toxicity[random.random(documents) < 0.1] = np.nan
    return pa.table(
        {
            "n_tokens": pa.array(random.integers(0, 4000, documents), pa.int32()),
            "quality": pa.array(random.random(documents), pa.float32()),
            "toxicity": pa.array(toxicity, pa.float32(), from_pandas=True),
            "domain": random.choice(["code", "news", "law", None], documents, p=[0.5, 0.3, 0.1, 0.1]),
            "language": random.choice(["en", "de"], documents),
            "register": random.choice(["formal", None], documents),
        }
    )


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return corpus()


@pytest.fixture(scope="module")
def composition(table: pa.Table) -> Composition:
    parts = [shard_statistics(table.slice(start, 700), COLUMNS) for start in range(0, table.num_rows, 700)]
    return Composition.of(merge(parts), COLUMNS)


def test_totals_are_those_of_the_table(table: pa.Table, composition: Composition) -> None:
    tokens = sum(table["n_tokens"].to_pylist())
    assert (composition.documents, composition.tokens) == (table.num_rows, tokens)
    for shares in (composition.domains, composition.languages, composition.labels["register"]):
        assert sum(share.docs for share in shares) == table.num_rows
        assert sum(share.tokens for share in shares) == tokens
    assert sum(length.docs for length in composition.lengths) + composition.no_tokens == table.num_rows
    assert sum(length.tokens for length in composition.lengths) == tokens


def test_domains_come_largest_first_and_undecided_last(table: pa.Table, composition: Composition) -> None:
    assert [share.label for share in composition.domains] == ["code", "news", "law", ""]
    assert composition.domains[0].docs == table["domain"].to_pylist().count("code")
    assert composition.domains[-1].docs == table["domain"].null_count


@pytest.mark.parametrize("name", ["quality", "toxicity"])
def test_estimates_lie_within_the_stated_error(table: pa.Table, composition: Composition, name: str) -> None:
    values = np.array([value for value in table[name].to_pylist() if value is not None])
    score = composition.score(name)
    assert score.undecided == table.num_rows - len(values)
    assert score.mean == pytest.approx(values.mean(), abs=score.bin_width / 2)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = np.quantile(values, q, method="inverted_cdf")
        assert score.quantiles[f"p{round(100 * q):02d}"] == pytest.approx(expected, abs=score.bin_width)
    assert score.half_or_more == (values >= 0.5).sum()


def test_a_domain_has_its_own_exact_bands(table: pa.Table, composition: Composition) -> None:
    rows = [row for row in table.to_pylist() if row["domain"] == "news"]
    values = np.array([row["toxicity"] for row in rows if row["toxicity"] is not None])
    found = next(row for row in composition.by_domain if (row.domain, row.score) == ("news", "toxicity"))
    assert list(found.docs) == np.histogram(values, bins=8, range=(0, 1))[0].tolist()
    assert found.undecided == len(rows) - len(values)
    assert found.half_or_more == (values >= 0.5).sum()


def test_length_bins_follow_each_other_without_gaps(composition: Composition) -> None:
    pairs = zip(composition.lengths, composition.lengths[1:], strict=False)
    assert all(left.next == right.first for left, right in pairs)


def test_a_corpus_without_documents_has_no_figures() -> None:
    empty = Composition.of(shard_statistics(corpus(0), COLUMNS), COLUMNS)
    assert (empty.documents, empty.tokens, empty.domains, empty.lengths) == (0, 0, (), ())
    assert empty.score("quality").mean is None
    assert empty.score("quality").quantile(0.5) is None


def test_without_label_taggers_there_are_no_domains(table: pa.Table) -> None:
    columns = COLUMNS[:1]
    composition = Composition.of(shard_statistics(table, columns), columns)
    assert (composition.domains, composition.languages, composition.by_domain) == ((), (), ())
    assert composition.documents == table.num_rows


def test_it_survives_json(composition: Composition) -> None:
    assert Composition.model_validate_json(composition.model_dump_json()) == composition
