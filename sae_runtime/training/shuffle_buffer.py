"""A bounded buffer that gives rows in random order, so that a batch holds tokens of many documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rows = dict[int, Tensor]
"""layer -> hidden_TD, the same T tokens for each layer"""


class ShuffleBuffer:
    """Gives each row that it was filled with at most once, in an order that follows from the seed.

    It holds at most `capacity` rows a layer in float16, besides one group of rows that didn't fit. Half empty, it is
    filled up and shuffled again.
    """

    def __init__(self, capacity: int, widths: dict[int, int], seed: int, device: torch.device) -> None:
        """`widths` is layer -> D."""
        self.capacity = capacity
        self._rows = {
            n: torch.empty(capacity, width, dtype=torch.float16, device=device) for n, width in widths.items()
        }
        self._spill = {n: rows[:0] for n, rows in self._rows.items()}
        self._free = torch.arange(capacity)
        self._order = torch.empty(0, dtype=torch.long)
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._order)

    def fill(self, read: Callable[[], Rows | None], limit: int) -> None:
        """Reads until `limit` rows (at most the capacity) wait or `read` gives None, then shuffles them all."""
        limit = min(limit, self.capacity)
        while len(self) < limit:
            if not len(next(iter(self._spill.values()))):
                found = read()
                if found is None:
                    break
                self._spill = found
            self._take_in()
        self._order = self._order[torch.randperm(len(self._order), generator=self._generator)]

    def _take_in(self) -> None:
        """Moves as much of the spill as there is room for into free places."""
        count = min(len(self._free), len(next(iter(self._spill.values()))))
        places, self._free = self._free[:count], self._free[count:]
        for layer, rows in self._rows.items():
            rows[places.to(rows.device)] = self._spill[layer][:count]
        self._spill = {layer: rows[count:] for layer, rows in self._spill.items()}
        self._order = torch.cat([self._order, places])

    def take(self, count: int) -> Rows:
        """The next rows, float32; fewer than `count` where fewer wait."""
        places, self._order = self._order[:count], self._order[count:]
        self._free = torch.cat([self._free, places])
        return {layer: rows[places.to(rows.device)].float() for layer, rows in self._rows.items()}

    def sample(self, count: int) -> Rows:
        """Up to `count` of the waiting rows, which stay, float32."""
        places = self._order[:count]
        return {layer: rows[places.to(rows.device)].float() for layer, rows in self._rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """The waiting rows and what decides the order of later ones, loadable with `weights_only=True`."""
        return {
            "rows": {layer: rows[self._order.to(rows.device)].cpu() for layer, rows in self._rows.items()},
            "spill": {layer: rows.cpu().clone() for layer, rows in self._spill.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        count = len(next(iter(state["rows"].values())))
        for layer, rows in self._rows.items():
            rows[:count] = state["rows"][layer].to(rows.device)
        self._spill = {layer: rows.to(self._rows[layer].device) for layer, rows in state["spill"].items()}
        self._order, self._free = torch.arange(count), torch.arange(count, self.capacity)
        self._generator.set_state(state["generator"])
