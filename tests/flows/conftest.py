"""A scope small enough to tag a corpus in seconds, and one tagged corpus that the tests share."""

import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

from assay.flows.cli import main
from assay.flows.engine import run_flow
from assay.flows.scopes import load_scope
from assay.flows.tag import TagReport, plan_shards, seal_run, tag_corpus, tag_job
from assay.sae_runtime.runtime import Runtime
from assay.schemas.parameters import TagParameters
from assay.schemas.store import TagManifest
from assay.schemas.tagger import FeatureWeight, Tagger, dump_tagger, load_taggers
from assay.workers.session import ray_session
from assay.workers.tagging import ShardTagger
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


class TaggedHere(NamedTuple):
    """A finished run that no Ray took part in."""

    corpus: Corpus
    store: Path
    scope: Path
    manifest: TagManifest

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


def tag_here(parameters: TagParameters) -> TagManifest:
    """Tags in this process, without Ray: the same objects as the flow writes."""
    plan = plan_shards.fn(parameters)
    tagger = ShardTagger(tag_job(plan))
    for number, shard in enumerate(plan.corpus.shards):
        tagger.process(shard, f"here-{number}")
    return seal_run.fn(plan)


@pytest.fixture(scope="session")
def tagged_here(tmp_path_factory: pytest.TempPathFactory, tiny_scope: Path, corpus: Corpus) -> TaggedHere:
    """The shared corpus, tagged in this process; the tests only read it."""
    store = tmp_path_factory.mktemp("tagged-here") / "store"
    return TaggedHere(corpus, store, tiny_scope, tag_here(tag_parameters(corpus.path, store, tiny_scope)))


@pytest.fixture
def store(tagged_here: TaggedHere, tmp_path: Path) -> Path:
    """A copy of that store, to write to."""
    return Path(shutil.copytree(tagged_here.store, tmp_path / "store"))


@pytest.fixture(scope="session")
def new_taggers(tiny_scope: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three taggers that the run doesn't have: on watched features, and two that need others too.

    Of the latter two each leaves some documents undecided and decides others.
    """
    folder = tmp_path_factory.mktemp("new-taggers")
    default = {t.name: t for t in load_taggers(tiny_scope.parent / "taggers")}
    watched = {(f.layer, f.feature) for tagger in default.values() for f in tagger.features}
    quality = default["quality"]

    def unwatched(layer: int, weight: float) -> tuple[FeatureWeight, ...]:
        free = (n for n in range(1024) if (layer, n) not in watched)
        return tuple(
            f.model_copy(update={"layer": layer, "feature": next(free), "weights": (weight,)}) for f in quality.features
        )

    for changes in (
        {"name": "kindness", "bias": (0.25,)},
        {"name": "open", "features": (*quality.features[:2], unwatched(1, 1.0)[0]), "rule": "any_of", "pooling": "any"},
        {"name": "courage", "features": (*quality.features[:3], unwatched(3, 0.3)[0])},
    ):
        (folder / f"{changes['name']}.json").write_text(dump_tagger(quality.model_copy(update=changes)), "utf-8")
    return folder


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
