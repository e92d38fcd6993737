"""A definition: which labelled sets a tagger is fitted on, what their columns mean, and how it is fitted."""

import re
from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from assay.schemas.base import Model
from assay.schemas.tagger import Axis

LabelKind = Literal["binary", "multiclass", "regression"]
Method = Literal["auto", "any_of", "linear", "dense"]
WeightBy = Literal["source", "label", "language"]


class Condition(Model):
    """Which rows of a source are taken, by one column; every test that is given must hold."""

    column: str
    among: tuple[str, ...] | None = Field(None, description="its value, as text, is one of these")
    not_among: tuple[str, ...] | None = Field(None, description="its value, as text, is none of these")
    at_least: FiniteFloat | None = Field(None, description="its value is a number that is not smaller")
    below: FiniteFloat | None = Field(None, description="its value is a number that is smaller")

    @model_validator(mode="after")
    def _tests(self) -> "Condition":
        if all(v is None for v in (self.among, self.not_among, self.at_least, self.below)):
            raise ValueError("a condition tests something: among, not_among, at_least or below")
        return self


class TextCut(Model):
    """Which part of a text is read."""

    characters: int = Field(gt=0, description="at most so many")
    start: float = Field(0.0, ge=0, lt=1, description="from the first space after this share of the text")
    at_least: int = Field(1, ge=1, description="a text of which fewer characters are left is not taken")
    whole_held_out: bool = Field(False, description="validation and test texts are read whole, as a corpus is")


class Passages(Model):
    """Cuts each text into passages of whole lines, whose place in it decides their split."""

    characters: int = Field(250, gt=0, description="least length; the longest is twice that")
    at_most: int | None = Field(None, gt=0, description="about so many passages a text, evenly spaced")


class LabelledSource(Model):
    """One labelled set, or a part of it; columns are those of the set."""

    corpus: str | None = Field(None, description="file, folder, glob, URI or Hugging Face dataset id")
    file: str | None = Field(None, description="its name in the folder of --data, which goes before corpus")
    made: str | None = Field(None, description="texts that this machine has: python_code")
    derive: str | None = Field(None, description="what is made of each text and taken in its place: broken_text")
    name: str = Field("", description="of the source, in slices and weights")
    text_column: str = "text"
    id_column: str | None = Field(None, description="by default ids are made from content")
    id_suffix: str = Field("", description="keeps apart two texts made of one row")
    label_column: str | None = None
    label: str | None = Field(None, description="the label of all rows, where no column says it")
    labels: dict[str, str] | None = Field(None, description="value of the label column -> label; others are left out")
    cut_label: FiniteFloat | None = Field(
        None, description="of a numeric label column: 'yes' from this value on, else 'no'"
    )
    group_column: str | None = Field(None, description="rows of one value stay in one split")
    group_without: str | None = Field(None, description="regular expression; what it matches is no part of the group")
    language_column: str | None = None
    language: str | None = Field(None, description="the language of all rows")
    languages: dict[str, str] | None = Field(None, description="value of the language column -> language")
    source_column: str | None = Field(None, description="splits the source into several, for slices and weights")
    split_column: str | None = Field(None, description="given splits: train or discovery, validation, test")
    split: Literal["train", "validation", "test"] | None = Field(None, description="the given split of all rows")
    where: tuple[Condition, ...] = ()
    sample: float | None = Field(None, gt=0, le=1, description="share of rows, by the last byte of their id's SHA-256")
    limit: int | None = Field(None, gt=0, description="at most so many rows: those whose id has the lowest SHA-256")
    cut: TextCut | None = None
    passages: Passages | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "LabelledSource":
        if (self.made is not None) == bool(self.corpus or self.file):
            raise ValueError("a source is a corpus (or a file of --data), or it is made")
        if (self.label is None) == (self.label_column is None):
            raise ValueError("a source has a label_column or one label for all rows")
        if self.labels is not None and self.cut_label is not None:
            raise ValueError("labels are mapped or cut, not both")
        try:
            re.compile(self.group_without or "")
        except re.error as e:
            raise ValueError(f"group_without is no regular expression: {e}") from e
        return self


class Definition(Model):
    """How one tagger is fitted: `assay fit --definition NAME` does so where the sets can be read."""

    format: Literal["assay.definition/1"] = "assay.definition/1"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="of the tagger, and of its column")
    version: int = Field(1, ge=1, description="of the tagger; raise it when it is to be fitted otherwise")
    axis: Axis
    description: str = ""
    license: str = Field("", description="of the labelled sets, as their publishers state it")
    kind: LabelKind | None = Field(None, description="by default what the labels look like")
    positive: str | None = Field(None, description="of a binary tagger: this label is yes, every other one is no")
    order: tuple[str, ...] = Field((), description="of a regression on names: the names from lowest to highest")
    unit: tuple[FiniteFloat, FiniteFloat] | None = Field(
        None, description="of a regression: the labels that scores 0 and 1 stand for; by default the extremes"
    )
    method: Method = Field("auto", description="auto: any_of or linear, whichever is better on validation documents")
    features: int = Field(512, gt=0, description="at most so many features")
    weight_by: tuple[WeightBy, ...] = Field((), description="every cell of these counts the same in sum")
    splits: Literal["stratified", "buckets"] = Field(
        "stratified", description="buckets: by the group's hash alone, as the embedded model's training texts"
    )
    seed: int = 0
    sources: tuple[LabelledSource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _kinds(self) -> "Definition":
        if self.order and self.kind not in (None, "regression"):
            raise ValueError("order belongs to a regression")
        if self.positive and self.kind not in (None, "binary"):
            raise ValueError("positive belongs to a binary tagger")
        whole = any(source.cut and source.cut.whole_held_out for source in self.sources)
        if whole and self.splits != "buckets":
            raise ValueError("whole_held_out needs splits: buckets, which are known when a text is read")
        return self
