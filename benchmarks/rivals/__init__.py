"""Everyone who can be measured, by the name that --rivals takes; each is imported only when it is asked for."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.rivals.base import Rival, Task, Weights

OURS = "ours"
REFERENCE = "card"
"""the simplest script: what all others are checked against"""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a rival is, and what it needs to run."""

    what: str
    module: str
    make: str
    """name of its class"""
    package: str | None = None
    on_gpu_only: bool = False
    cheapest_only: bool = False
    """measured only with the narrowest SAE and the fewest hooked layers, unless it is named"""

    def missing(self, device: str) -> str | None:
        """Why it can't run here, or None."""
        if self.on_gpu_only and not device.startswith("cuda"):
            return "needs a GPU"
        if self.package is not None and find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return None

    def imported(self) -> Any:
        """Its class."""
        return getattr(import_module(f"benchmarks.rivals.{self.module}"), self.make)

    def load(self, task: "Task", weights: "Weights", **options: Any) -> "Rival":
        """The rival with its weights loaded."""
        rival: Rival = self.imported()(task, weights, **options)
        return rival


RIVALS: dict[str, Entry] = {
    "card": Entry("model card's script: whole model, one document at a time", "model_card", "ModelCard"),
    "hooks": Entry("Hugging Face hooks, batches of 16", "batches_of_16", "HuggingFaceHooks"),
    "saelens": Entry("SAELens encode on hooked residuals, batches of 16", "sae_lens", "SaeLens", "sae_lens"),
    "saelens-bridge": Entry(
        "SAELens run_with_cache_with_saes, batches of 16", "sae_lens", "SaeLensBridge", "sae_lens", cheapest_only=True
    ),
    "nnsight": Entry("nnsight trace with early stop, batches of 16", "nnsight_trace", "NnsightTrace", "nnsight"),
    "expert": Entry("expert's script: sorted batches, early exit, torch.topk, sparse reduce", "expert", "Expert"),
    "expert-1k": Entry("expert's script with batches of 1,024 tokens", "expert", "SmallBatchExpert"),
    "vllm": Entry("vLLM hidden-state extraction", "vllm_extraction", "VllmExtraction", "vllm", on_gpu_only=True),
}
# Not compared by a ratio: lines of their own.
VARIANTS: dict[str, Entry] = {
    OURS: Entry("this runtime", "ours", "Ours"),
    "ours-top256": Entry(
        "this runtime, pruned to the 256 largest features a document", "ours", "Ours", cheapest_only=True
    ),
    "ours-auto": Entry("this runtime with dtype auto: may be another precision", "ours", "Ours"),
}
