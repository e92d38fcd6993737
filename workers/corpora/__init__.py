"""How a corpus is listed, cut into shards, and read row by row with bad records isolated."""
