"""Parameters of the flows: one model gives the command line's flags, the server's form, and its checks."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from assay.schemas.base import Model
from assay.schemas.definition import Definition, LabelKind, Method, WeightBy
from assay.schemas.recipe import Recipe
from assay.schemas.tagger import Axis


class RayOptions(Model):
    """Where the actors run."""

    workers: int | None = Field(None, gt=0, description="Ray actors; by default one a GPU, or one a core")
    ray_address: str | None = Field(None, description="a Ray cluster; by default RAY_ADDRESS or one on this machine")


class WorkerOptions(RayOptions):
    """How a tagging worker runs."""

    device: str | None = Field(None, description="cpu or cuda; by default the GPU if this machine has one")
    threads: int | None = Field(None, gt=0, description="CPU threads an actor")
    seconds_per_mb: float | None = Field(
        None,
        gt=0,
        description="a worker that takes longer for a MB of text is stopped; by default 20 times the slowest",
    )


class TagOptions(WorkerOptions):
    """What `assay tag` takes besides the corpus."""

    store: str = Field(description="folder or URI that holds features, tags and manifests; made if absent")
    scope: str = Field("embedded", description="a scope's name (see `assay scopes`) or a YAML file")
    taggers: str | None = Field(None, description="tagger file or folder to apply; by default the scope's own")
    text_column: str = Field("text", description="column with the text")
    id_column: str | None = Field(None, description="column with the id; by default ids are made from content")
    max_document_mb: float = Field(32.0, gt=0, description="longer documents are quarantined")
    shard_mb: float | None = Field(None, gt=0, description="MB of text in a shard; by default the scope's")


class TagParameters(TagOptions):
    """What the flow tag_corpus does."""

    corpus: str = Field(description="file, folder, glob, URI (s3://...) or Hugging Face dataset id")


class RetryParameters(WorkerOptions):
    """What the flow retry_run does."""

    store: str = Field(description="folder or URI of the store")
    run: str | None = Field(None, description="run id; needed where several runs have something to try again")
    quarantined: bool = Field(False, description="also try documents again that broke their workers")


class ApplyOptions(RayOptions):
    """What `assay apply` takes besides the store."""

    taggers: str = Field(description="tagger file or folder to apply")
    run: str | None = Field(None, description="finished run whose features are read; needed where corpora differ")
    workers: int | None = Field(None, gt=0, description="Ray actors; by default this process alone")


class ApplyParameters(ApplyOptions):
    """What `assay apply` does."""

    store: str = Field(description="folder or URI of the store")


class RecomputeOptions(RayOptions):
    """What `assay recompute` takes besides the store."""

    run: str | None = Field(None, description="finished run that left documents undecided")
    workers: int | None = Field(None, gt=0, description="Ray actors; by default this process alone")
    device: str | None = Field(None, description="cpu or cuda; by default the GPU if this machine has one")
    threads: int | None = Field(None, gt=0, description="CPU threads an actor")


class RecomputeParameters(RecomputeOptions):
    """What `assay recompute` does."""

    store: str = Field(description="folder or URI of the store")


class CalibrateParameters(Model):
    """What `assay calibrate` does: set a threshold by one rule, or draw a sample to label."""

    store: str = Field(description="folder or URI of the store")
    tagger: str = Field(description="the tagger's name")
    run: str | None = Field(None, description="finished run that the tagger has scored")
    share: float | None = Field(None, gt=0, lt=1, description="share of all documents that are to be positive")
    fpr: float | None = Field(None, gt=0, lt=1, description="share of negatives that may be positive by the tag")
    precision: float | None = Field(None, gt=0, lt=1, description="share of positives by the tag that are to be so")
    labels: Path | None = Field(None, description="JSONL or CSV with id and label of documents of the sample")
    overlay: Path = Field(Path("calibration.json"), description="overlay to write")
    sample: int | None = Field(None, gt=0, description="draw so many documents to label, stratified by score")
    sample_out: Path | None = Field(None, description="JSONL file to write them to")

    @model_validator(mode="after")
    def _one_thing(self) -> "CalibrateParameters":
        rules = [name for name in ("share", "fpr", "precision") if getattr(self, name) is not None]
        if self.sample is not None and (rules or self.sample_out is None):
            raise ValueError("--sample needs --sample-out, and no rule beside it: first label, then set the threshold")
        if self.sample is None and len(rules) != 1:
            raise ValueError("give one of --share, --fpr and --precision, or --sample")
        return self

    @property
    def rule(self) -> tuple[Literal["share", "fpr", "precision"], float]:
        """The rule that is given, and its target."""
        for name in ("share", "fpr", "precision"):
            if (target := getattr(self, name)) is not None:
                return name, target
        raise ValueError("no rule: a sample was asked for")


class CurateParameters(RayOptions):
    """What the flow curate does."""

    recipe: Recipe
    where: str = Field("recipe", description="the recipe's file, for messages")


class LabelOptions(Model):
    """What `assay fit` is told about labelled documents and the tagger wanted; a definition says it instead."""

    label_column: str | None = Field(None, description="column with the label")
    name: str | None = Field(None, description="the tagger's name and column; by default the label column's")
    axis: Axis = Field("custom", description="what the tag is about")
    kind: LabelKind | Literal["ordinal"] | None = Field(
        None, description="by default what the labels look like; ordinal is a regression on ranks"
    )
    positive: str | None = Field(None, description="this label is yes, every other one no")
    order: tuple[str, ...] = Field((), description="names of ordinal labels, lowest first")
    method: Method = Field("auto", description="auto: any_of or linear, by validation documents")
    features: int = Field(512, gt=0, description="at most so many features")
    text_column: str = Field("text", description="column with the text")
    id_column: str | None = Field(None, description="column with the id; needed with --store")
    group_column: str | None = Field(None, description="rows of one value stay in one split")
    group_without: str | None = Field(None, description="regular expression; what it matches is no part of the group")
    language_column: str | None = Field(None, description="the evidence is sliced by it")
    source_column: str | None = Field(None, description="the evidence is sliced by it")
    split_column: str | None = Field(None, description="given splits: train, validation, test")
    weight_by: tuple[WeightBy, ...] = Field((), description="every cell of these counts the same in sum")
    description: str = Field("", description="one line on what the tag means")
    seed: int = Field(0, description="of the splits")


class FitOptions(RayOptions):
    """Where `assay fit` gets features from."""

    store: str | None = Field(None, description="a tagged store that holds the documents, found by id")
    run: str | None = Field(None, description="run id; needed where the store holds several runs")
    data: str | None = Field(None, description="folder whose files go before a definition's published sets")
    scope: str = Field("embedded", description="a scope's name (see `assay scopes`) or a YAML file")
    layers: tuple[int, ...] = Field(
        (), description="the tagger may read these only; by default all that the scope hooks"
    )
    work: str = Field("assay-fit", description="folder for features that are made, kept for the next time")
    residuals: bool = Field(True, description="make mean residuals too, which the dense probe reads")
    tokens: bool = Field(True, description="give each feature a few tokens on which it fires")
    device: str | None = Field(None, description="cpu or cuda; by default the GPU if this machine has one")
    threads: int | None = Field(None, gt=0, description="CPU threads an actor")


class FitParameters(FitOptions):
    """What the flow fit_tagger does."""

    definition: Definition


class TrainSaeParameters(Model):
    """What the flow train_sae does."""

    backbone: str = Field(description="a folder with a transformers checkpoint, a Hub id, or 'embedded'")
    backbone_revision: str | None = Field(None, description="Hub commit, branch or tag")
    layers: tuple[int, ...] = Field(min_length=1, description="0-based decoder layers; each gets an SAE of its output")
    corpus: str = Field(description="file, folder, glob, URI (s3://...) or Hugging Face dataset id")
    out: str = Field(description="folder for SAEs, scope.yaml and training.json; made if absent")
    expansion: int | None = Field(None, gt=0, description="features for each dimension of the residual; by default 16")
    d_sae: int | None = Field(None, gt=0, description="features, in place of --expansion")
    k: int = Field(32, gt=0, description="active features a token")
    tokens: int = Field(2_000_000, gt=0, description="tokens that each SAE is trained on; a small corpus is repeated")
    window: int = Field(512, ge=8, description="tokens in one forward pass; longer documents are windowed")
    format: Literal["qwen-scope", "saelens"] = Field("qwen-scope", description="layout of the SAE files")
    seed: int = Field(11, description="of the weights at the start and the order of tokens")
    batch: int = Field(1024, gt=0, description="tokens in one training step")
    buffer: int = Field(2**17, gt=0, description="tokens shuffled together, each 2 bytes x width x layers")
    learning_rate: float | None = Field(
        None, gt=0, description="peak of Adam's; by default 0.002 at 3,072 features, falling with their square root"
    )
    text_column: str = Field("text", description="column with the text")
    id_column: str | None = Field(None, description="column with the id, which decides what is held out")
    max_document_mb: float = Field(32.0, gt=0, description="longer documents are left out")
    device: str | None = Field(None, description="cpu or cuda; by default the GPU if this machine has one")
    threads: int | None = Field(None, gt=0, description="CPU threads")
    checkpoint_minutes: float = Field(2.0, ge=0, description="minutes between checkpoints")
