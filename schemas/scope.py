"""A scope: what turns a document into features."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from assay.schemas.base import Model

_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


class Scope(Model):
    """Backbone, SAE, layers and pooling. Two scopes that could give different features have different fingerprints."""

    name: str = Field(min_length=1)
    backbone: str = Field(description="'embedded', a folder with a transformers checkpoint, or a Hub id")
    backbone_revision: str | None = Field(None, description="Hub commit, branch or tag")
    sae: str = Field(
        description="'embedded', a folder with SAEs in Qwen-Scope's, SAELens' or sparsify's layout, or a Hub id"
    )
    sae_revision: str | None = Field(None, description="Hub commit, branch or tag")
    layers: tuple[int, ...] = Field(min_length=1, description="0-based decoder layers whose output is encoded")
    k: int | None = Field(
        None, gt=0, description="active features a token of a top-k SAE; by default what its config or repo name says"
    )
    window: int = Field(1024, ge=8, description="tokens in one forward pass; longer documents are windowed")
    overlap: int = Field(128, ge=1, description="tokens of left context that a later window repeats, uncounted")
    max_tokens: int | None = Field(
        None, gt=0, description="tokens read of a document; later ones count in n_tokens and aren't seen"
    )
    mask_first: bool = Field(True, description="leave out position 0, an attention sink outside the SAE's training")
    norm_outlier: float | None = Field(
        10.0, gt=1, description="leave out tokens whose residual norm exceeds this many medians of their window"
    )
    top_m: int = Field(256, gt=0, description="features kept a document and layer, by max; watched ones are kept too")
    residuals: bool = Field(
        False,
        description="also store each document's mean residual over its counted tokens, at each layer, for dense probes",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the backbone; auto: bfloat16 on a GPU, and on a CPU whichever a short measurement finds faster",
    )
    exact: bool = Field(
        False, description="float32 products in the encoder, where the default takes float16 weights (on a GPU)"
    )
    screen: bool | None = Field(
        None,
        description="on a CPU, find with int8 which few features need a float32 product, which rounds otherwise; by "
        "default the driver measures whether it pays, and all workers do as it says",
    )
    compile: bool = Field(
        False, description="fuse the backbone's elementwise work with torch.compile: a slower start, then faster"
    )
    batch_tokens: int | None = Field(
        None,
        gt=0,
        description="padded tokens in one forward pass; decides rounding; by default 1024 on a CPU, 16384 on a GPU",
    )
    shard_mb: float = Field(16.0, gt=0, description="default shard size, MB of text: some minutes of work")
    taggers: str | None = Field(
        None, description="folder with the default taggers, under configs/ or a path; their features are watched"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Scope":
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be distinct, ascending and 0-based, not {list(self.layers)}")
        if self.overlap >= self.window:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than window ({self.window})")
        return self

    def on(self, device: str) -> "Scope":
        """This scope with its batches settled for a device: a CPU's caches should hold one, a GPU must be filled."""
        return self.model_copy(update={"batch_tokens": self.batch_tokens or _BATCH_TOKENS[device.partition(":")[0]]})


class EncoderIdentity(Model):
    """Everything that decides what a feature is and when it fires; its fingerprint binds taggers to features."""

    files: dict[str, str] = Field(description="weights, config and tokenizer files -> sha256")
    layers: tuple[int, ...]
    activation: Literal["topk", "jumprelu"] = Field(description="topk, or a threshold for each feature")
    k: int | None = Field(description="active features a token; null where thresholds decide")
    d_model: int
    d_sae: int
    window: int
    overlap: int
    max_tokens: int | None
    mask_first: bool
    norm_outlier: float | None
    dtype: Literal["float32", "bfloat16"] = Field(description="of the backbone")
    encoder_dtype: Literal["float32", "float16"] = Field(description="of W_enc")


class FeaturesIdentity(Model):
    """What decides the bytes of a features shard: the encoder, how it was batched, and what was kept."""

    encoder: str = Field(description="fingerprint of the EncoderIdentity")
    top_m: int
    watched: tuple[tuple[int, int], ...] = Field(description="(layer, feature) pairs that are always kept")
    batch_tokens: int
    compile: bool
    screen: bool = Field(
        False,
        exclude_if=lambda screened: not screened,
        description="absent where false, so that older features keep their name",
    )
    residuals: bool = Field(
        False,
        exclude_if=lambda stored: not stored,
        description="absent where false, so that older features keep their name",
    )
    format: Literal["assay.features/2"] = "assay.features/2"

    @classmethod
    def of(cls, scope: Scope, encoder: str, watched: Iterable[tuple[int, int]]) -> "FeaturesIdentity":
        """What `scope`, settled for a device, decides about a features shard of an encoder with watched features."""
        if scope.batch_tokens is None:
            raise ValueError("batch_tokens isn't settled: use Scope.on(device)")
        return cls(
            encoder=encoder,
            top_m=scope.top_m,
            watched=tuple(sorted(set(watched))),
            batch_tokens=scope.batch_tokens,
            compile=scope.compile,
            screen=bool(scope.screen),
            residuals=scope.residuals,
        )
