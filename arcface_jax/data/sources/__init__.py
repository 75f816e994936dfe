"""Readers of face images from disk, one module per format, each an `EncodedSource`.

`arcface_jax.data.open.open_source` picks the reader by what lies at a path.
"""
