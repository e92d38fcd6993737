"""Tiny checkpoints of the four architectures with an SAE for each layer, and their references, made once a session."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import FAMILIES, LAYERS, save_checkpoint, save_saes
from tests.sae_runtime.reference import Document, Reference
from tests.sae_runtime.tiny import OVERLAP, WINDOW, K


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A folder with model/ and saes/, for tiny_scope."""

    family: str
    folder: Path
    saes: dict[int, dict[str, torch.Tensor]]

    @cache  # noqa: B019 - lives as long as the session anyway
    def reference(self, **changes: Any) -> Reference:
        """The reference of tiny_scope(folder, **changes)."""
        settings: dict[str, Any] = {"k": K, "window": WINDOW, "overlap": OVERLAP}
        return Reference(self.folder / "model", self.saes, **(settings | changes))

    def documents(self, texts: Sequence[str], **changes: Any) -> list[Document]:
        """What the features of `texts` must be at every layer."""
        return [self._document(text, **changes) for text in texts]

    @cache  # noqa: B019
    def _document(self, text: str, **changes: Any) -> Document:
        return self.reference(**changes).document(text)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted encoders go to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Family -> its checkpoint, in one safetensors file."""

    @cache
    def made(family: str) -> Checkpoint:
        folder = tmp_path_factory.mktemp(family)
        save_checkpoint(folder / "model", family)
        return Checkpoint(family, folder, save_saes(folder / "saes", range(LAYERS), k=K))

    return made


@pytest.fixture(params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Checkpoint]) -> Checkpoint:
    """Each architecture in turn."""
    return checkpoint_of(request.param)


@pytest.fixture
def qwen3(checkpoint_of: Callable[[str], Checkpoint]) -> Checkpoint:
    """Where the architecture doesn't matter."""
    return checkpoint_of("qwen3")
