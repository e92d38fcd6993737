"""An independent reference for features: the published model class, whole, one window of one document at a time.

Shares no code with sae_runtime: its own windows, hooks, masks, a dense encode with torch.topk, and dense sums.
Where two values are so close at the edge of a token's top k that float32 rounding decides between them, either choice
is right. Such features are open at that token, and the reference gives the least and the most that they can change;
everywhere else the two coincide.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

OPEN = 5e-6
"""of a token's largest activation: how far from the edge of the top k a value can be decided by rounding"""


class Choice(NamedTuple):
    """Which features of T tokens are active: `sure` always, `possible` where rounding decides otherwise."""

    acts_TF: Tensor
    sure_TF: Tensor
    possible_TF: Tensor
    largest: float = 0.0
    """the largest |h @ W_enc.T|: its rounding is in every activation, however small that is after the bias"""


@dataclass
class LayerFeatures:
    """One document at one layer. Each pair is (least, most) over what rounding can decide."""

    count_F: tuple[Tensor, Tensor]
    max_F: tuple[Tensor, Tensor]
    sum_F: tuple[Tensor, Tensor]
    outliers: int = 0
    ties: int = 0
    """counted tokens at which some feature is open"""
    largest: float = 0.0

    @classmethod
    def none(cls, d_sae: int) -> "LayerFeatures":
        """A document without counted tokens."""
        pairs = [(torch.zeros(d_sae, dtype=torch.double), torch.zeros(d_sae, dtype=torch.double)) for _ in range(3)]
        return cls(*pairs)

    def add(self, choice: Choice) -> None:
        """Takes counted tokens."""
        for end, active_TF in enumerate((choice.sure_TF, choice.possible_TF)):
            dense_TF = torch.where(active_TF, choice.acts_TF, 0.0).double()
            self.count_F[end].add_(active_TF.sum(0))
            self.sum_F[end].add_(dense_TF.sum(0))
            if len(dense_TF):
                self.max_F[end].copy_(torch.maximum(self.max_F[end], dense_TF.amax(0)))
        self.largest = max(self.largest, choice.largest)
        self.ties += int((choice.sure_TF != choice.possible_TF).any(1).sum())


@dataclass
class Document:
    """The features of one document."""

    n_tokens: int
    tokens_seen: int = 0
    layers: dict[int, LayerFeatures] = field(default_factory=dict)


class Reference:
    """What a scope's features must be."""

    def __init__(
        self,
        folder: Path,
        saes: Mapping[int, Mapping[str, Tensor]],
        *,
        k: int = 16,
        window: int = 1024,
        overlap: int = 128,
        max_tokens: int | None = None,
        mask_first: bool = True,
        norm_outlier: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Loads the checkpoint in `folder` in the class that its config.json names."""
        name = json.loads((folder / "config.json").read_text())["architectures"][0]
        self.model: Any = getattr(transformers, name).from_pretrained(folder, dtype=dtype).eval()
        self.tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), split_special_tokens=True
        )
        self.saes, self.k = saes, k
        self.window, self.overlap, self.max_tokens = window, overlap, max_tokens
        self.mask_first, self.norm_outlier = mask_first, norm_outlier

    def document(self, text: str) -> Document:
        """The features of `text` at every layer that has an SAE."""
        ids = self.tokenizer.encode(text)
        found = Document(len(ids))
        found.layers = {layer: LayerFeatures.none(len(sae["b_enc"])) for layer, sae in self.saes.items()}
        for context, new in self._windows(len(ids[: self.max_tokens])):
            first = int(self.mask_first)
            fresh = range(max(first, len(context)), len(context) + len(new))
            found.tokens_seen += len(fresh)
            hidden = self.residuals(ids[context.start : new.stop])
            for layer, features in found.layers.items():
                counted = [t for t in fresh if not self._is_outlier(hidden[layer], t, first)]
                features.outliers += len(fresh) - len(counted)
                features.add(self.choose(layer, hidden[layer][counted]))
        return found

    def residual_means(self, text: str) -> dict[int, Tensor]:
        """Layer -> the mean residual of the counted tokens, in float64; 0 where none counts."""
        ids = self.tokenizer.encode(text)
        counted: dict[int, list[Tensor]] = {layer: [] for layer in self.saes}
        for context, new in self._windows(len(ids[: self.max_tokens])):
            first = int(self.mask_first)
            hidden = self.residuals(ids[context.start : new.stop])
            for layer, vectors in counted.items():
                fresh = range(max(first, len(context)), len(context) + len(new))
                vectors += [hidden[layer][t].double() for t in fresh if not self._is_outlier(hidden[layer], t, first)]
        nothing = torch.zeros(self.model.config.get_text_config().hidden_size, dtype=torch.double)
        return {layer: torch.stack(found).mean(0) if found else nothing for layer, found in counted.items()}

    def residuals(self, ids: list[int]) -> dict[int, Tensor]:
        """Layer -> float32 residual after it (T, D), from hooks on the whole model; for every layer with an SAE."""
        caught: dict[int, Tensor] = {}
        decoder = getattr(self.model.model, "language_model", self.model.model)

        def catch(layer: int, output: Any) -> None:
            caught[layer] = (output[0] if isinstance(output, tuple) else output)[0].float()

        handles = [
            decoder.layers[layer].register_forward_hook(lambda _m, _i, output, layer=layer: catch(layer, output))
            for layer in self.saes
        ]
        with torch.no_grad():
            self.model(input_ids=torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return caught

    def choose(self, layer: int, hidden_TD: Tensor) -> Choice:
        """topk(relu(h @ W_enc.T + b_enc), k), dense, with the features that rounding could swap."""
        sae = self.saes[layer]
        product_TF = hidden_TD.float() @ sae["W_enc"].float().T
        pre_TF = product_TF + sae["b_enc"].float()
        acts_TF = torch.relu(pre_TF)
        best_TK, ids_TK = torch.topk(acts_TF, self.k)
        top_TF = torch.zeros_like(acts_TF).scatter_(1, ids_TK, best_TK) > 0
        near_T1 = OPEN * product_TF.abs().amax(1, keepdim=True)
        last_in_T1 = best_TK[:, -1:]
        best_out_T1 = torch.where(top_TF, -torch.inf, pre_TF).amax(1, keepdim=True)
        sure_TF = top_TF & (pre_TF - best_out_T1 > near_T1) & (pre_TF > near_T1)
        possible_TF = top_TF | ((last_in_T1 - pre_TF <= near_T1) & (pre_TF > -near_T1))
        largest = float(product_TF.abs().max()) if len(product_TF) else 0.0
        return Choice(acts_TF, sure_TF, possible_TF, largest)

    def _windows(self, length: int) -> list[tuple[range, range]]:
        """(positions seen for context only, positions counted): the counted ones follow each other without a gap."""
        windows, done = [], 0
        while done < length:
            start = max(0, done - self.overlap) if done else 0
            stop = min(length, start + self.window)
            windows.append((range(start, done), range(done, stop)))
            done = stop
        return windows

    def _is_outlier(self, hidden_TD: Tensor, token: int, first: int) -> bool:
        if self.norm_outlier is None:
            return False
        norms_T = hidden_TD.norm(dim=1)
        return bool(norms_T[token] > self.norm_outlier * norms_T[first:].median())
