"""Sizes of backbones and SAEs that are measured: a small one for CPUs, the published ones for GPUs."""

from dataclasses import dataclass
from typing import Literal

Hooked = Literal["one", "three", "all"]
HOOKED: tuple[Hooked, ...] = ("one", "three", "all")


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense Qwen3 backbone and the SAE widths that are measured on it."""

    name: str
    hidden: int
    depth: int
    """decoder layers"""
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """whether the head is the embedding"""
    d_sae: tuple[int, ...]
    k: int

    def layers(self, hooked: Hooked) -> tuple[int, ...]:
        """0-based layers: one at two thirds of the depth (as in the suites' scopes), three spread to 3/4, or all."""
        if hooked == "one":
            return (self.depth * 2 // 3,)
        if hooked == "three":
            return tuple(sorted({self.depth // 4, self.depth // 2, self.depth * 3 // 4}))
        return tuple(range(self.depth))


def small(hidden: int, depth: int, vocab: int, d_sae: tuple[int, ...], k: int) -> Shape:
    """A Qwen3 in the proportions of the published ones, for a CPU: heads of 64, two queries a key, MLP of 3 d."""
    heads = hidden // 64
    return Shape("small", hidden, depth, 3 * hidden, heads, max(1, heads // 2), 64, vocab, True, d_sae, k)


PUBLISHED = {
    "qwen3-1.7b": Shape("qwen3-1.7b", 2048, 28, 6144, 16, 8, 128, 151_936, True, (32_768,), 50),
    "qwen3-8b": Shape("qwen3-8b", 4096, 36, 12_288, 32, 8, 128, 151_936, False, (65_536,), 50),
}
