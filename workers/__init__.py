"""Where it runs: reading corpora, tagging and curating shards exactly once, on Ray actors."""
