"""Parameters of the flows: one model gives the command line's flags, the server's form, and its checks."""

from pydantic import Field

from assay.schemas.base import Model
from assay.schemas.recipe import Recipe


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
