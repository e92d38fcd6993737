"""How a document becomes features: tokenise, window, batch, truncated backbone, SAE encode, top-k, pool, prune.

Runs alone: it needs torch, transformers, tokenizers, safetensors and numpy, and neither Ray nor Prefect.
`Runtime` in runtime.py puts the steps together; read the modules in the order of that line.
Tensor names carry their shape: T tokens, D model width, F SAE features, K active features, B rows of a batch.
"""
