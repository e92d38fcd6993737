"""Labelled texts with a planted theme, tagged by the embedded model in a store that the tests share."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from assay.flows.scopes import load_scope
from assay.flows.tag import plan_shards, seal_run, tag_job
from assay.schemas.definition import Definition
from assay.schemas.parameters import TagParameters
from assay.schemas.store import TagManifest
from assay.taggers.examples import Example
from assay.taggers.fitting import pose
from assay.taggers.problem import Problem
from assay.taggers.stored import Stored
from assay.workers.storage.objects import ObjectStore
from assay.workers.tagging import ShardTagger

DOCUMENTS = 300
_PLAIN = (
    "the people of this town have seen that there is more than one way to say it and some of them will go on with "
    "what they had before while others think about a new house by the river or the long road to the old mill"
)
_THEMES = {
    "religion": "the church prayed to God and Jesus for the faith of the people in the holy Bible . ",
    "software": "install the package with this command and set the option in the configuration file . ",
    "food": "add the sugar and butter to the flour and bake the cake in a hot oven for an hour . ",
}


class Planted:
    """The store, its run and its texts, from which problems are posed."""

    def __init__(self, store: ObjectStore, manifest: TagManifest, examples: tuple[Example, ...]) -> None:
        self.store, self.manifest, self.examples = store, manifest, examples

    def problem(
        self, label: Callable[[Example], str], *, layers: tuple[int, ...] = (), **definition: object
    ) -> Problem:
        """The documents with labels made of what they are; `example.label` is theme and amount, such as food 2."""
        examples = tuple(example._replace(label=label(example)) for example in self.examples)
        place = {example.id: i for i, example in enumerate(examples)}
        stored = Stored(self.store, [self.manifest], place, layers)
        return pose(examples, stored, a_definition(**definition))


def a_definition(**changes: object) -> Definition:
    """A definition whose sources don't matter."""
    source = {"corpus": "labelled.jsonl", "label_column": "label"}
    return Definition.model_validate({"name": "planted", "axis": "custom", "sources": [source], **changes})


def planted_examples() -> tuple[Example, ...]:
    """Texts of plain words with one to three sentences of a theme between them; three texts are a group."""
    draw, found = random.Random(0), []
    for n in range(DOCUMENTS):
        theme, amount = list(_THEMES)[n % 3], 1 + n // 3 % 3
        words = draw.choices(_PLAIN.split(), k=draw.randint(20, 60))
        for _ in range(amount):
            words.insert(draw.randrange(len(words)), _THEMES[theme])
        language, source = draw.choice(["en", "xx"]), draw.choice(["web", "books"])
        found.append(Example(f"d{n}", " ".join(words), f"{theme} {amount}", f"g{n}", language, source))
    return tuple(found)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The texts with every feature and residual that the embedded model has for them; no Ray is involved."""
    folder = tmp_path_factory.mktemp("planted")
    examples = planted_examples()
    lines = "".join(json.dumps({"id": e.id, "text": e.text}) + "\n" for e in examples)
    (folder / "texts.jsonl").write_text(lines, "utf-8")
    whole = {"top_m": 100_000, "taggers": None, "residuals": True}
    scope = load_scope("embedded").model_copy(update=whole).model_dump_json()
    (folder / "scope.yaml").write_text(scope, "utf-8")
    return tagged(folder / "texts.jsonl", folder / "store", folder / "scope.yaml", examples)


def tagged(corpus: Path, store: Path, scope: Path, examples: tuple[Example, ...]) -> Planted:
    """A corpus tagged by the workers' plain classes."""
    parameters = TagParameters(corpus=str(corpus), store=str(store), scope=str(scope), id_column="id", device="cpu")
    plan = plan_shards.fn(parameters)
    tagger = ShardTagger(tag_job(plan))
    for shard in plan.corpus.shards:
        tagger.process(shard, "attempt")
    return Planted(ObjectStore(str(store)), seal_run.fn(plan), examples)
