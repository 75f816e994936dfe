"""How to go over many classes: in chunks, over devices, by a sample, fused with the update.

`arcface_jax.losses.margin_softmax_loss` is the exact softmax over them all; here is what it is made
of (`class_sums`, `shards`, `sampling`), the step that updates class weights in place (`fused`), and
what gives a trained head other identities or devices (`resize`).
"""

from arcface_jax.heads.fused import HeadState, HeadStep, RowSgd, fused_head_step, init_head
from arcface_jax.heads.resize import (
    add_classes,
    class_means,
    drop_classes,
    merge_classes,
    shard_head,
    unshard_head,
)
from arcface_jax.heads.sampling import ClassSample, hard_classes, partition_recall, sample_classes
from arcface_jax.heads.shards import shard_classes, unshard_classes

__all__ = [
    "ClassSample",
    "HeadState",
    "HeadStep",
    "RowSgd",
    "add_classes",
    "class_means",
    "drop_classes",
    "fused_head_step",
    "hard_classes",
    "init_head",
    "merge_classes",
    "partition_recall",
    "sample_classes",
    "shard_classes",
    "shard_head",
    "unshard_classes",
    "unshard_head",
]

__all__ = [
    "ClassSample",
    "HeadState",
    "HeadStep",
    "RowSgd",
    "add_classes",
    "class_means",
    "drop_classes",
    "fused_head_step",
    "hard_classes",
    "init_head",
    "merge_classes",
    "partition_recall",
    "sample_classes",
    "shard_classes",
    "shard_head",
    "unshard_classes",
    "unshard_head",
]
