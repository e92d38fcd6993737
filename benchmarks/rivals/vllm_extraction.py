"""vLLM's hidden-state extraction, then the expert's encoding. Written from vLLM's documentation: not yet run."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.distributed.kv_transfer.kv_connector.v1 import example_hidden_states_connector as connector

from benchmarks.rivals.base import Features, Task, Weights, Window, cut
from benchmarks.rivals.expert import SparseEncoder, SparsePool, counted_tokens, sorted_batches, tokens_seen

_SHARE_OF_MEMORY = 0.35


class VllmExtraction:
    """Prefill in vLLM with the residuals written to files in memory, read back and encoded on the GPU.

    vLLM counts the states that enter a layer, so decoder layer n's output is its state n + 1.
    """

    def __init__(self, task: Task, weights: Weights) -> None:
        self._task = task
        self._tokenizer = weights.tokenizer
        self._encoders = {layer: SparseEncoder(*weights.encoder(layer), task.k) for layer in task.layers}
        shared = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
        states = {"eagle_aux_hidden_state_layer_ids": [layer + 1 for layer in task.layers]}
        self._engine = LLM(
            model=str(task.backbone),
            dtype=task.dtype,
            max_model_len=task.window + 1,
            max_num_batched_tokens=max(task.batch_tokens, task.window + 1),
            enable_chunked_prefill=False,
            enable_prefix_caching=False,
            gpu_memory_utilization=_SHARE_OF_MEMORY,
            speculative_config={
                "method": "extract_hidden_states",
                "num_speculative_tokens": 1,
                "draft_model_config": {"hf_config": states},
            },
            kv_transfer_config={
                "kv_connector": "ExampleHiddenStatesConnector",
                "kv_role": "kv_producer",
                "kv_connector_extra_config": {"shared_storage_path": self._folder.name},
            },
        )
        self.tokens_run = 0

    @torch.inference_mode()
    def features(self, texts: Sequence[str]) -> Features:
        task = self._task
        tokenised = self._tokenizer(list(texts), return_attention_mask=False)["input_ids"]
        windows = [window for document, ids in enumerate(tokenised) for window in cut(document, ids, task)]
        pools = {layer: SparsePool(task.d_sae) for layer in task.layers}
        for batch in sorted_batches(windows, task.batch_tokens):
            hidden_TLD = self._residuals(batch)
            _, documents_T = counted_tokens(batch, task.device)
            for at, layer in enumerate(task.layers):
                pools[layer].add(documents_T, *self._encoders[layer].encode(hidden_TLD[:, at].contiguous()))
        self.tokens_run = sum(len(window.ids) for window in windows)
        return {layer: pool.finish(tokens_seen(windows, len(texts))) for layer, pool in pools.items()}

    def _residuals(self, batch: Sequence[Window]) -> Tensor:
        """hidden_TLD of the counted tokens of some windows, in their order."""
        prompts = [{"prompt_token_ids": window.ids} for window in batch]
        outputs = self._engine.generate(prompts, SamplingParams(max_tokens=1), use_tqdm=False)
        parts = []
        for window, output in zip(batch, outputs, strict=True):
            path = Path(output.kv_transfer_params["hidden_states_path"])
            states_TLD = connector.load_hidden_states(str(path))["hidden_states"]
            path.unlink()
            parts.append(states_TLD[window.counted_from : len(window.ids)].to(self._task.device, non_blocking=True))
        return torch.cat(parts)
