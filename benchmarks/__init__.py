"""Measures the runtime against the scripts and libraries that people would use instead; see README.md."""
