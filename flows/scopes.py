"""Finds a scope and its taggers by name, and works out what they are called."""

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from assay.sae_runtime.suites import SUITES, suite_scope
from assay.schemas.base import fingerprint
from assay.schemas.errors import AssayError, unknown_name
from assay.schemas.scope import EncoderIdentity, FeaturesIdentity, Scope
from assay.schemas.tagger import Tagger, load_taggers
from assay.schemas.yaml_file import load_yaml

CONFIGS = Path(str(files("assay.configs")))


class ResolvedScope(NamedTuple):
    """A scope with its identity on this machine's files, and the taggers to apply."""

    scope: Scope
    device: str
    encoder: EncoderIdentity
    features: FeaturesIdentity
    taggers: tuple[Tagger, ...]

    @property
    def watched(self) -> tuple[tuple[int, int], ...]:
        """(layer, feature) pairs that every document keeps."""
        return self.features.watched


def scope_names() -> list[str]:
    """Every scope that `--scope` knows by name: those in configs/scopes/ and the published suites."""
    return sorted({path.stem for path in (CONFIGS / "scopes").glob("*.yaml")} | set(SUITES))


def load_scope(name: str) -> Scope:
    """The scope called `name`, or the one in the YAML file `name`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_yaml(path, Scope)
    ready = CONFIGS / "scopes" / f"{name}.yaml"
    if ready.is_file():
        return load_yaml(ready, Scope)
    if name in SUITES:
        return suite_scope(name)
    raise unknown_name("scope", name, scope_names())


def default_taggers(scope: Scope) -> tuple[Tagger, ...]:
    """The taggers that come with a scope; none where it names none."""
    if scope.taggers is None:
        return ()
    folder = CONFIGS / "taggers" / scope.taggers
    return load_taggers(folder if folder.is_dir() else Path(scope.taggers))


def resolve_scope(
    name: str, *, taggers: str | None = None, device: str | None = None, elsewhere: bool = False
) -> ResolvedScope:
    """Scope, fingerprints and taggers. The scope's default taggers are watched; `taggers` names others to apply.

    `device` decides the backbone's dtype where the scope says auto; by default this machine's GPU, if any. It need
    not be on this machine if the work is done `elsewhere`.
    """
    from assay.sae_runtime.hardware import settle_screen
    from assay.sae_runtime.scope_files import identify

    scope = load_scope(name)
    device = require_device(device, elsewhere=elsewhere)
    default = default_taggers(scope)
    encoder = identify(scope, device)
    # What was measured here holds for every worker of the run: a corpus has features of one type.
    scope = settle_screen(scope.on(device).model_copy(update={"dtype": encoder.dtype}), device, encoder.d_model)
    watched = [(f.layer, f.feature) for t in default for f in t.features]
    features = FeaturesIdentity.of(scope, fingerprint(encoder), watched)
    return ResolvedScope(scope, device, encoder, features, load_taggers(Path(taggers)) if taggers else default)


def weights_are_here(scope: Scope) -> bool:
    """Whether a scope's weights are on this machine, so that loading it fetches nothing. Asks no network."""
    return all(
        name == "embedded" or Path(name).is_dir() or _is_cached(name, revision)
        for name, revision in ((scope.backbone, scope.backbone_revision), (scope.sae, scope.sae_revision))
    )


def _is_cached(repository: str, revision: str | None) -> bool:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def restore_scope(
    scope: Scope,
    watched: Iterable[tuple[int, int]],
    taggers: tuple[Tagger, ...],
    *,
    device: str | None = None,
    elsewhere: bool = False,
) -> ResolvedScope:
    """A scope that an earlier run resolved, with its identity on this machine's files."""
    from assay.sae_runtime.scope_files import identify

    device = require_device(device, elsewhere=elsewhere)
    encoder = identify(scope, device)
    return ResolvedScope(scope, device, encoder, FeaturesIdentity.of(scope, fingerprint(encoder), watched), taggers)


def require_device(device: str | None, *, elsewhere: bool = False) -> str:
    """The device named, by default this machine's GPU if any; AssayError if it isn't here, nor work `elsewhere`."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise AssayError(f"no such device: {device!r}", hint="give cpu, cuda or cuda:N")
    if device.startswith("cuda") and not elsewhere and not torch.cuda.is_available():
        raise AssayError("no GPU is visible", where=f"device {device}", hint="leave out --device to run on the CPU")
    return device
