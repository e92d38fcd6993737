"""Measures what the embedded model's features know, beside plain rivals, and writes docs/embedded-model.md."""
