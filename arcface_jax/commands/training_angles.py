"""W-EC and W-Inter of a run: its class weights among each other and beside their people."""

import numpy as np

from arcface_jax.commands.models import TrainedRun
from arcface_jax.counts import number_of
from arcface_jax.data.in_memory import OnUnreadable, load_source
from arcface_jax.data.subset import Subset
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import (
    ClassAngles,
    class_centres,
    degrees_between,
    nearest_other_degrees,
)
from arcface_jax.evaluation.bootstrap import Interval, Resampling, angle_intervals
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.progress import Begin, unseen
from arcface_jax.runs.dataset import RunData

MOST_IMAGES = 5000
"""Training images to embed for W-EC."""


def training_angles(
    model: TrainedRun,
    data: RunData,
    resampling: Resampling,
    most_images: int = MOST_IMAGES,
    begin: Begin = unseen,
) -> dict[str, Interval]:
    """ "angle w_ec" and "angle w_inter" of Table 3 (arXiv:1801.07698), on a run's training people.

    W-Inter is of all classes. W-EC is of as many classes, drawn at random, as have `most_images`
    images together: all images of few classes rather than few of all, for the mean of few
    embeddings lies off the class's centre. Images are embedded without their mirror images, as
    they meet the class weights in training. `begin` shows the work.
    """
    if model.class_weights is None or model.class_weights.ndim != 2:
        raise InputError(
            f"{model.name}: W-EC and W-Inter need one class weight a class; its loss has none, or "
            "several"
        )
    if len(model.class_weights) != data.num_classes:
        raise InputError(
            f"{model.name}: has weights of {number_of(len(model.class_weights), 'class')}, but its "
            f"data now have {data.num_classes}; restore the data that it was trained on"
        )
    weights = unit_embeddings(model.class_weights, f"{model.name}: class_weights")
    chosen = images_of_some_classes(np.asarray(data.train.labels), most_images, resampling.seed)
    on_unreadable: OnUnreadable = "raise" if model.config.data.unreadable == "stop" else "skip"
    with begin("Decoding training images for W-EC", len(chosen)) as move:
        sample = load_source(
            Subset(data.train, chosen),
            model.image_size,
            on_unreadable=on_unreadable,
            progress=move,
        )
    labels = np.asarray(data.train.labels)[chosen[sample.kept]]
    present, numbers = np.unique(labels, return_inverse=True)
    with begin("Embedding training images for W-EC", len(sample.images)) as move:
        embedded = model.embed(sample.images, move)
    embeddings = unit_embeddings(embedded, f"{model.name}: embeddings")
    to_centre = degrees_between(weights[present], class_centres(embeddings, numbers, len(present)))
    degrees = {"angle w_ec": to_centre, "angle w_inter": nearest_other_degrees(weights)}
    ones = {name: np.ones(len(values), np.int64) for name, values in degrees.items()}
    angles = {name: ClassAngles(values, ones[name]) for name, values in degrees.items()}
    return angle_intervals(angles, resampling=resampling)


def images_of_some_classes(labels: np.ndarray, most_images: int, seed: int) -> np.ndarray:
    """Indices of all images of random classes: as many as fit `most_images`, two at least."""
    classes, counts = np.unique(labels, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(classes))
    num_drawn = max(2, int(np.searchsorted(np.cumsum(counts[order]), most_images, side="right")))
    return np.flatnonzero(np.isin(labels, classes[order[:num_drawn]]))
