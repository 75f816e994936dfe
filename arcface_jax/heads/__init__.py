"""The classifier at scale: the exact margin softmax without its logits, on one device or many, and
parts of it.

- `chunked_margin_softmax_loss`: the dense loss in chunks of classes; memory O(N·chunk).
- `sharded_margin_softmax_loss`: the same with the classes split over devices.
- `sample_classes`, `hard_classes` and `sampled_margin_softmax_loss`: Partial FC, and the classes
  nearest to the batch.
- `add_classes`, `drop_classes`, `merge_classes`, `shard_head`: a trained head with other identities
  or devices.
- `fused_head_step`: loss, embedding gradients and the class weights' update in place, with no
  gradient of them stored.

Each takes any psi, sub-centres, a scale for each example, label smoothing and a filter, as the
dense loss does.
"""

from arcface_jax.heads.chunked import chunked_margin_softmax_loss
from arcface_jax.heads.fused import HeadState, HeadStep, fused_head_step, init_head
from arcface_jax.heads.partial import hard_classes, partition_recall, sampled_margin_softmax_loss
from arcface_jax.heads.resize import (
    add_classes,
    class_means,
    drop_classes,
    merge_classes,
    shard_head,
    unshard_head,
)
from arcface_jax.heads.row_optimisers import RowAdagrad, RowAdam, RowOptimiser, RowSgd
from arcface_jax.heads.sampling import ClassSample, sample_classes
from arcface_jax.heads.sharded import shard_classes, sharded_margin_softmax_loss, unshard_classes

__all__ = [
    "ClassSample",
    "HeadState",
    "HeadStep",
    "RowAdagrad",
    "RowAdam",
    "RowOptimiser",
    "RowSgd",
    "add_classes",
    "chunked_margin_softmax_loss",
    "class_means",
    "drop_classes",
    "fused_head_step",
    "hard_classes",
    "init_head",
    "merge_classes",
    "partition_recall",
    "sample_classes",
    "sampled_margin_softmax_loss",
    "shard_classes",
    "shard_head",
    "sharded_margin_softmax_loss",
    "unshard_classes",
    "unshard_head",
]
