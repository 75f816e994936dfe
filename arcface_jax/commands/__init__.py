"""What the commands in `experiments/` share: reading options, one-line errors, opening models,
galleries and sets of photos, and the pages they write. `main` is the console script that calls
them.
"""
