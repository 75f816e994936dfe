"""ArcFace, additive angular margin loss for face recognition, in JAX and Flax."""
