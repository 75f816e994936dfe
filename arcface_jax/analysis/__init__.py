"""What a loss or a trained network does: angles, gaps between classes, neighbours, label noise.

Computes them from plain arrays; `arcface_jax.figures` draws them.
"""
