"""--loss.margin auto and --loss.scale auto: numbers of a loss that the data decide."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from arcface_jax.errors import InputError
from arcface_jax.losses import ArcFace, MarginSoftmax, automatic_margin, loss_name
from arcface_jax.runs.dataset import training_counts
from arcface_jax.runs.processes import join_processes
from arcface_jax.training.config import Config

_AUTO = "auto"
_NAMES = ("margin", "scale")  # a scale follows from the margin


def take_automatic(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """(which numbers the data are to decide, the other arguments)."""
    left, automatic = list(arguments), []
    for name in _NAMES:
        option, last = f"--loss.{name}", None
        for index, argument in enumerate(left):
            if argument == option:
                last = left[index : index + 2]
            elif argument.startswith(f"{option}="):
                last = argument.split("=", 1)
        if last == [option, _AUTO]:
            automatic.append(name)
            pairs = zip(["", *left], left, strict=False)
            left = [one for before, one in pairs if option not in (before, one.partition("=")[0])]
    return tuple(automatic), left


def with_automatic(config: Config, names: Sequence[str]) -> Config:
    """The configuration with these numbers of its loss, by its classes and embedding size.

    Raises:
      InputError: the loss has no such number, or the data cannot be opened.
    """
    if not names:
        return config
    loss: Any = config.loss
    for name, kind in (("margin", ArcFace), ("scale", MarginSoftmax)):
        if name in names and not isinstance(loss, kind):
            whose = "ArcFace's" if kind is ArcFace else "for softmax over cosines"
            raise InputError(
                f"--loss.{name} {_AUTO} is {whose}; with loss.name {loss_name(loss)} give a "
                "number, or leave it out"
            )
    if config.run.distributed:  # to compute must not come before
        join_processes()
    classes = len(training_counts(config.data, config.run.seed))
    dim = config.model.embedding_size
    if "margin" in names:
        loss = dataclasses.replace(loss, margin=round(automatic_margin(classes, dim), 3))
    if "scale" in names:
        loss = dataclasses.replace(loss, scale=float(f"{loss.suitable_scale(classes, dim):.3g}"))
    return dataclasses.replace(config, loss=loss)
