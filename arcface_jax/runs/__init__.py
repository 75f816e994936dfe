"""A run: its data, its loop, its folder and checkpoints, going on after a stop, what it says.

What a step computes is `arcface_jax.training`; nothing there knows of runs.
"""
