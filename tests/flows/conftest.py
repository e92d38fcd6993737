"""A scope small enough to tag a corpus in seconds, and one tagged corpus that the tests share."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

from assay.flows.cli import main
from assay.flows.engine import run_flow
from assay.flows.scopes import load_scope
from assay.flows.tag import TagReport, tag_corpus
from assay.sae_runtime.runtime import Runtime
from assay.schemas.parameters import TagParameters
from assay.schemas.tagger import FeatureWeight, Tagger, dump_tagger
from assay.workers.session import ray_session
from tests.checkpoints import save_checkpoint, save_saes
from tests.flows.corpora import Corpus, document, write_corpus

LAYERS = [1, 3]
SHARD_MB = 0.004


class Tagged(NamedTuple):
    """A finished run on one worker."""

    corpus: Corpus
    store: Path
    scope: Path
    report: TagReport

    def parameters(self, **changes: object) -> TagParameters:
        """The parameters of the run, but for `changes`."""
        return tag_parameters(self.corpus.path, self.store, self.scope, **changes)


class Ran(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


def tag_parameters(corpus: Path, store: Path, scope: Path, /, **changes: object) -> TagParameters:
    """The parameters that the tests tag with."""
    values = {"store": str(store), "scope": str(scope), "id_column": "id", "shard_mb": SHARD_MB, "workers": 1}
    return TagParameters.model_validate({"corpus": str(corpus), **values, "device": "cpu", **changes})


@pytest.fixture(scope="session")
def tiny_scope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scope file over a random Qwen3, with three taggers of random weights on features that fire in these texts."""
    folder = tmp_path_factory.mktemp("scope")
    save_checkpoint(folder / "model", "qwen3")
    save_saes(folder / "saes", LAYERS)
    (folder / "taggers").mkdir()
    values = {
        "name": "tiny", "backbone": str(folder / "model"), "sae": str(folder / "saes"), "layers": LAYERS,
        "window": 64, "overlap": 16, "top_m": 24, "batch_tokens": 512,
    }  # fmt: skip
    path = folder / "tiny.yaml"
    _write_yaml(path, values)
    runtime = Runtime(load_scope(str(path)).model_copy(update={"top_m": 1024}), device="cpu")
    firing = _firing(runtime)
    draw = random.Random(0)
    for name, axis, labels, width in (
        ("quality", "quality", ("good",), 6),
        ("toxicity", "safety", ("toxic",), 12),
        ("domain", "domain", ("code", "news", "shop"), 20),
    ):
        chosen = sorted(draw.sample(firing, width))
        features = tuple(
            FeatureWeight(layer=f.layer, feature=f.feature, scale=f.largest, weights=tuple(_weights(draw, labels)))
            for f in chosen
        )
        usual = [[f.mean / f.largest * w for w in x.weights] for f, x in zip(chosen, features, strict=True)]
        tagger = Tagger(
            name=name, axis=axis, kind="score" if len(labels) == 1 else "label", description="random weights",
            labels=labels, encoder=runtime.encoder_fingerprint, pooling="max", sqrt=False,
            bias=tuple(-sum(column) for column in zip(*usual, strict=True)), features=features, method="random",
        )  # fmt: skip
        (folder / "taggers" / f"{name}.json").write_text(dump_tagger(tagger), "utf-8")
    _write_yaml(path, {**values, "taggers": str(folder / "taggers")})
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster for the session's runs in this process."""
    with ray_session("local", cpus=2):
        yield


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The `assay` command in this process: returns exit code, stdout and stderr."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["assay", *map(str, arguments)])
        capsys.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as exit_:
            warnings.filterwarnings("ignore", "Cyclopts application invoked without tokens")
            main()
        return Ran(int(exit_.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus that most tests share; none of them changes it."""
    return write_corpus(tmp_path_factory.mktemp("shared") / "corpus")


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory, tiny_scope: Path, corpus: Corpus, ray_cluster: None) -> Tagged:
    """The shared corpus, tagged by one worker; the tests only read it."""
    store = tmp_path_factory.mktemp("tagged") / "store"
    report = run_flow(tag_corpus, tag_parameters(corpus.path, store, tiny_scope))
    return Tagged(corpus, store, tiny_scope, report)


class _Feature(NamedTuple):
    layer: int
    feature: int
    largest: float
    mean: float
    """over all texts, 0 where it doesn't fire"""


def _firing(runtime: Runtime) -> list[_Feature]:
    """Features that fire in some of the texts, but not in all."""
    found = []
    texts = [document(n) for n in range(40)]
    for layer, sparse in runtime.features(texts).layers.items():
        largest: dict[int, list[float]] = {}
        for feature, value in zip(sparse.ids.tolist(), sparse.max.tolist(), strict=True):
            largest.setdefault(feature, []).append(value)
        some = {f: values for f, values in largest.items() if 8 <= len(values) <= 32}
        found += [_Feature(layer, f, max(values), sum(values) / len(texts)) for f, values in some.items()]
    return found


def _weights(draw: random.Random, labels: Sequence[str]) -> Iterator[float]:
    return (draw.uniform(-4, 4) for _ in labels)


def _write_yaml(path: Path, values: dict[str, object]) -> None:
    with path.open("w", encoding="utf-8") as out:
        YAML(typ="safe", pure=True).dump(values, out)
