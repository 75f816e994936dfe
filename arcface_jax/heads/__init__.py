"""The classifier at scale: the exact margin softmax without its logits, on one device or many, and parts of it."""

from arcface_jax.heads.chunked import chunked_margin_softmax_loss
from arcface_jax.heads.sharded import shard_classes, sharded_margin_softmax_loss, unshard_classes

__all__ = ["chunked_margin_softmax_loss", "shard_classes", "sharded_margin_softmax_loss", "unshard_classes"]
