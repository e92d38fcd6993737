"""Plain ways to tell the same labels on the same splits: a tagger is worth what it adds to them.

Each is fitted on discovery documents and its settings are chosen on validation documents, as the tagger's are.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from assay.taggers import any_of, dense
from assay.taggers.linear import regress, weigh_all
from assay.taggers.matrix import Matrix
from assay.taggers.problem import Fitted, Problem, answer

Output = NDArray[np.float64]
_TFIDF_FEATURES = 40_000
_LONGEST_CHARACTERS = 20_000
_KEYWORDS = 30
_FEWEST_TEXTS = 5
_WORD = re.compile(r"\w{2,30}")


def tfidf_logistic(problem: Problem) -> Output:
    """TF-IDF of words and pairs of words, or of characters, whichever is better, and a regression on it."""
    discovery, held = problem.rows("discovery"), problem.rows("validation")
    texts = [text[:_LONGEST_CHARACTERS] for text in problem.texts]
    best: tuple[float, Output] | None = None
    for analyzer, ngrams in (("word", (1, 2)), ("char_wb", (1, 3))):
        vectors = TfidfVectorizer(
            analyzer=analyzer, ngram_range=ngrams, max_features=_TFIDF_FEATURES, sublinear_tf=True, dtype=np.float32
        )
        vectors.fit([text for text, chosen in zip(texts, discovery, strict=True) if chosen])
        x = vectors.transform(texts).tocsr()
        for ridge in (1.0, 10.0):
            output = _regressed(problem, x, ridge)
            value = problem.value(output, held)
            if best is None or value > best[0]:
                best = (value, output)
    assert best is not None  # noqa: S101 - there are four candidates
    return best[1]


def length_only(problem: Problem) -> Output:
    """A regression on the logarithm of the number of tokens, and its square."""
    length_N = np.log1p(problem.stored.documents.tokens_N.astype(float))
    x = np.column_stack([length_N, length_N**2])
    return _regressed(problem, (x - x.mean(0)) / np.maximum(x.std(0), 1e-9), 1.0)


def keyword(problem: Problem) -> Output:
    """The 30 words of largest log odds for each label: yes where any of them occurs; a label where most do."""
    target, discovery = problem.target, problem.rows("discovery")
    bags = [frozenset(word.lower() for word in _WORD.findall(text[:_LONGEST_CHARACTERS])) for text in problem.texts]
    counts = [Counter[str]() for _ in range(target.strata)]
    for bag, label in zip(np.array(bags, object)[discovery], target.stratum_N[discovery], strict=True):
        counts[label].update(bag)
    sizes = np.bincount(target.stratum_N[discovery], minlength=target.strata)
    chosen = [_log_odds(counts, sizes, label) for label in range(target.strata)]
    if target.kind == "binary":
        # How many of the best words are used is chosen on validation documents.
        held, best = problem.rows("validation"), (float("-inf"), np.zeros((len(bags), 1)))
        for k in (3, 10, _KEYWORDS):
            wanted = set(chosen[1][:k])
            output = np.array([float(not wanted.isdisjoint(bag)) for bag in bags])[:, None]
            best = max(best, (problem.value(output, held), output), key=lambda found: found[0])
        return best[1]
    hits_NC = np.array([[len(bag.intersection(words)) for words in chosen] for bag in bags], float)
    return hits_NC + sizes / sizes.sum() / 2


def majority(problem: Problem) -> Output:
    """What is most frequent in discovery documents, whatever the text; of a regression the mean."""
    target, discovery = problem.target, problem.rows("discovery")
    n = len(target.y_N)
    if target.kind == "multiclass":
        shares_C = np.bincount(target.stratum_N[discovery], minlength=target.outputs) / discovery.sum()
        return np.tile(shares_C, (n, 1))
    return np.full((n, 1), target.y_N[discovery].mean())


def random_features(problem: Problem, fitted: Fitted, matrix: Matrix, columns: NDArray[np.int64]) -> Output:
    """As many features as the tagger has, drawn from those that fire at all, under its own rule."""
    if fitted.rule == "any_of":
        return any_of.fitted_of(problem, columns, matrix).output_NL
    shaped = matrix.shaped(fitted.pooling, np.sort(columns), problem.rows("discovery"))
    ridge = getattr(fitted.setting, "ridge", 1.0)
    return weigh_all(problem, shaped, ridge, problem.rows("discovery")).output_NL


def plain(problem: Problem) -> dict[str, Callable[[Problem], Output]]:
    """The baselines that need no SAE feature, by name; a dense probe where residuals are stored."""
    found: dict[str, Callable[[Problem], Output]] = {
        "tfidf_logistic": tfidf_logistic,
        "length_only": length_only,
        "majority": majority,
    }
    if problem.target.kind != "regression":
        found["keyword"] = keyword
    if problem.stored.has_residuals():
        found["dense_probe"] = lambda problem: dense.best(dense.candidates(problem)).output_NL
    return found


def _regressed(problem: Problem, x: NDArray[np.float64] | sparse.csr_matrix, ridge: float) -> Output:
    weight_FL, bias_L = regress(problem, x, ridge, problem.rows("discovery"))
    return answer(np.asarray(x @ weight_FL) + bias_L, problem.target.kind)


def _log_odds(counts: Sequence[Counter[str]], sizes: NDArray[np.int64], label: int) -> list[str]:
    """The words whose odds are largest in texts of the label against all others, half a text added to each count."""
    others: Counter[str] = Counter()
    for i, counted in enumerate(counts):
        if i != label:
            others.update(counted)
    inside, outside = int(sizes[label]), int(sizes.sum() - sizes[label])

    def odds(word: str) -> float:
        a, b = counts[label][word], others[word]
        return float(np.log((a + 0.5) / (inside - a + 0.5)) - np.log((b + 0.5) / (outside - b + 0.5)))

    words = [word for word, n in counts[label].items() if n >= min(_FEWEST_TEXTS, max(1, inside // 20))]
    return sorted(words, key=lambda word: (-odds(word), word))[:_KEYWORDS]
