"""Builds Assay's embedded model from public text: gather, tokenizer, pretrain, SAEs, evaluate."""
