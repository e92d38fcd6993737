"""Where bytes are kept: filesystems, objects that are created once, and the commits that make shards exist."""
