"""What is exchanged between the parts: configuration, plans, commits, taggers, recipes and tables.

Nothing here imports torch, Ray or Prefect; every model is frozen, refuses unknown keys and documents its units.
"""
