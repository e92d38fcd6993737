"""Copies of documents: signatures by shard, matches by partition, clusters, and the list of what should go."""
