"""How labelled documents become a tagger, what it is worth, and what it keys on: scikit-learn over stored features."""
