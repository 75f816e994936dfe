"""The options --loss.…: each loss has its own, and the data may decide its margin and scale."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from arcface_jax.commands.command import take_option
from arcface_jax.commands.help_page import nearest
from arcface_jax.errors import InputError, concerning
from arcface_jax.losses import (
    LOSSES,
    ArcFace,
    Loss,
    MarginSoftmax,
    automatic_margin,
    loss_name,
)
from arcface_jax.runs.dataset import training_counts
from arcface_jax.runs.processes import join_processes
from arcface_jax.training.config import Config, with_loss

_AUTO = "auto"
_NAMES = ("margin", "scale")  # a scale follows from the margin


def take_loss(config: Config, arguments: list[str]) -> tuple[Config, list[str]]:
    """(the configuration with the loss that --loss.name names, the other arguments).

    Its class has the name as a further field, so that --help shows it among the loss's own.
    """
    names, rest = take_option(arguments, "--loss.name", "one of " + ", ".join(LOSSES))
    config = with_loss(config, names[-1]) if names else config
    loss, name = config.loss, loss_name(config.loss)
    known = [field.name for field in dataclasses.fields(loss)]
    for argument in rest:
        option = argument.partition("=")[0]
        field = option.removeprefix("--loss.").replace("-", "_")
        if option.startswith("--loss.") and field.removeprefix("no_") not in known:
            others = {one.name for each in LOSSES.values() for one in dataclasses.fields(each)}
            near = "" if field in others else nearest(field, known)  # of another loss: no slip
            meant = f"did you mean --loss.{near.replace('_', '-')}?"
            remedy = meant if near else f"it has {', '.join(known)}"
            raise InputError(f"{option}: loss.name {name} has no {field}; {remedy}")
    choices = (
        "Loss: arcface, cosface, adaface, magface … Its own options stand beside it here. "
        f"All: {', '.join(LOSSES)}; or module:Class of your own."
    )
    kind = Annotated[str, tyro.conf.arg(metavar="NAME", help=choices)]
    field_of_name = ("name", kind, dataclasses.field(default=name, kw_only=True))
    named = dataclasses.make_dataclass(
        type(loss).__name__,
        [field_of_name],
        bases=(type(loss),),
        frozen=True,
        # Its numbers are checked by `with_plain_loss`, whose error is one line.
        namespace={"__doc__": type(loss).__doc__, "__post_init__": lambda self: None},
    )
    shown = named(**{field: getattr(loss, field) for field in known})
    return dataclasses.replace(config, loss=shown), rest


def with_plain_loss(config: Config) -> Config:
    """The configuration with the loss's own class again, after `take_loss`."""
    cls: Any = type(config.loss).__bases__[0]
    fields = {field.name: getattr(config.loss, field.name) for field in dataclasses.fields(cls)}
    with concerning(f"loss.name {loss_name(cls)}"):
        return dataclasses.replace(config, loss=cls(**fields))


def take_automatic(arguments: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """(which numbers the data are to decide, the other arguments)."""
    automatic = []
    for name in _NAMES:
        values, others = take_option(arguments, f"--loss.{name}", f"a number or {_AUTO}")
        if values[-1:] == [_AUTO]:
            automatic.append(name)
            arguments = others
    return tuple(automatic), arguments


def can_be_automatic(loss: Loss, name: str) -> bool:
    """Whether the data can decide this number of a loss."""
    return isinstance(loss, ArcFace if name == "margin" else MarginSoftmax)


def with_automatic(config: Config, names: Sequence[str]) -> Config:
    """The configuration with these numbers of its loss, by its classes and embedding size.

    Raises:
      InputError: the loss has no such number, or the data cannot be opened.
    """
    if not names:
        return config
    loss: Any = config.loss
    for name in names:
        if not can_be_automatic(loss, name):
            whose = "ArcFace's" if name == "margin" else "for softmax over cosines"
            raise InputError(
                f"--loss.{name} {_AUTO} is {whose}; with loss.name {loss_name(loss)} give a "
                "number, or leave it out"
            )
    if config.run.distributed:  # to compute must not come before
        join_processes()
    classes = len(training_counts(config.data, config.run.seed))
    if "margin" in names:
        with concerning(f"--loss.margin {_AUTO}"):
            margin = automatic_margin(classes, config.model.embedding_size)
        loss = dataclasses.replace(loss, margin=round(margin, 3))
    if "scale" in names:
        with concerning(f"--loss.scale {_AUTO}"):
            scale = loss.suitable_scale(classes)
        loss = dataclasses.replace(loss, scale=float(f"{scale:.3g}"))
    return dataclasses.replace(config, loss=loss)
