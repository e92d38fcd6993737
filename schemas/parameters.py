"""Parameters of the flows: one model gives the command line's flags, the server's form, and its checks."""

from typing import Literal

from pydantic import Field

from assay.schemas.base import Model
from assay.schemas.dedup import Decontaminate, Dedup, FeatureCopies, NearCopies
from assay.schemas.recipe import Recipe, TaggedSource


class RayOptions(Model):
    """Where the actors run."""

    workers: int | None = Field(None, gt=0, description="Ray actors; by default one a GPU, or one a core")
    ray_address: str | None = Field(None, description="a Ray cluster; by default RAY_ADDRESS or one on this machine")


class TagOptions(RayOptions):
    """What `assay tag` takes besides the corpus."""

    store: str = Field(description="folder or URI that holds features, tags and manifests; made if absent")
    scope: str = Field("embedded", description="a scope's name (see `assay scopes`) or a YAML file")
    taggers: str | None = Field(None, description="tagger file or folder to apply; by default the scope's own")
    text_column: str = Field("text", description="column with the text")
    id_column: str | None = Field(None, description="column with the id; by default ids are made from content")
    max_document_mb: float = Field(32.0, gt=0, description="longer documents are quarantined")
    shard_mb: float | None = Field(None, gt=0, description="MB of text in a shard; by default the scope's")
    device: str | None = Field(None, description="cpu or cuda; by default the GPU if this machine has one")
    threads: int | None = Field(None, gt=0, description="CPU threads an actor")


class TagParameters(TagOptions):
    """What the flow tag_corpus does."""

    corpus: str = Field(description="file, folder, glob, URI (s3://...) or Hugging Face dataset id")


class CurateParameters(RayOptions):
    """What the flow curate does."""

    recipe: Recipe
    where: str = Field("recipe", description="the recipe's file, for messages")


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


class DedupOptions(RayOptions):
    """What `assay dedup` takes besides the store; equal texts are always looked for."""

    near: bool = Field(False, description="also look for near copies (MinHash)")
    threshold: float = Field(0.8, gt=0, le=1, description="smallest Jaccard similarity of a near copy")
    shingle: int = Field(5, ge=1, le=50, description="words in a shingle")
    permutations: int = Field(128, ge=16, le=1024, description="MinHash values a document")
    features: int | None = Field(None, ge=0, description="also compare the SAE features of this layer")
    cosine: float = Field(0.95, gt=0, le=1, description="smallest cosine of features")
    keep: str = Field("first", description="the copy that stays: first, longest or best:<score>")
    reference: tuple[str, ...] = Field((), description="benchmark files whose text is looked for")
    ngram: int = Field(13, ge=4, le=50, description="words in a run that a document shares with a benchmark")


class DedupParameters(RayOptions):
    """What the flow dedup does."""

    sources: tuple[TaggedSource, ...] = Field(min_length=1)
    output: str = Field(description="folder or URI for the result; made if absent")
    dedup: Dedup | None = None
    decontaminate: Decontaminate | None = None


def dedup_parameters(store: str, run: str | None, output: str, options: DedupOptions) -> DedupParameters:
    """The flow's parameters for one store."""
    near = NearCopies(threshold=options.threshold, shingle=options.shingle, permutations=options.permutations)
    layer = options.features
    features = None if layer is None else FeatureCopies(layer=layer, cosine=options.cosine)
    reference = Decontaminate(reference=options.reference, ngram=options.ngram) if options.reference else None
    return DedupParameters(
        sources=(TaggedSource(store=store, run=run),),
        output=output,
        dedup=Dedup(near=near if options.near else None, features=features, keep=options.keep),
        decontaminate=reference,
        workers=options.workers,
        ray_address=options.ray_address,
    )
