"""Every setting of a training run, as frozen dataclasses that JSON can hold."""

import dataclasses
import json
import pathlib
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from arcface_jax.data.augment import Augmentation
from arcface_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on, and who is held out."""

    source: Literal["synthetic", "folder", "auto"] = "synthetic"
    """synthetic: drawn faces. folder: identity/image files under data.root. auto: whatever data.root is."""
    root: str | None = None
    """folder: a folder, or zip file of one, with a sub-folder of images for each identity. auto: also train.rec,
    a list (.csv, .tsv, .lst), Parquet, .tar shards, a prepared TFDS folder, or tfds:NAME."""
    image_size: int = 32
    """Height and width in pixels that images are rendered at or resized to."""
    identities: int = 800
    """People to draw (source synthetic), training and test together."""
    images_per_identity: int = 20
    """Images of each person (source synthetic)."""
    test_fraction: float = 0.25
    """Share of the identities that is never trained on and verifies the model."""
    pairs: int = 6000
    """Verification pairs drawn from the held-out identities, half of them of one person."""
    flip_test: bool = True
    """When verifying, add the embedding of the mirror image."""
    loading: Literal["memory", "stream"] = "memory"
    """memory: decode the training images once, at the start. stream: decode them batch by batch, ahead of the step."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What an image that cannot be decoded does: stop the run, or be left out and counted."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The embedding network."""

    name: str = "iresnet18"
    """Backbone: iresnet18, 34, 50, 100 or 200."""
    width: int = 16
    """Channels of the first stage; 64 is the published size."""
    embedding_size: int = 128
    """Dimension D of the embedding; 512 in the paper."""
    dropout: float = 0.0
    """Dropout rate before the embedding layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type the backbone computes in; parameters, statistics and the loss stay float32."""


PastPi = Literal["none", "linear", "easy", "clip", "reflect"]
GradientName = Literal["exact", "straight_through"]
LossName = Literal["arcface", "cosface", "sphereface", "normface", "cm1", "cm2", "softmax"]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The classification loss."""

    name: LossName = "arcface"
    """Margin, by its name in the paper; softmax is the plain layer with a bias, without normalisation."""
    margin: float | None = None
    """arcface: m in radians; cosface: m; sphereface: the factor m. Default: the paper's .5, .35, 1.35."""
    scale: float | None = None
    """Radius s of the sphere that the logits lie on (softmax has none). Default 16, about twice the least
    that can tell a few hundred people apart; 64 in the papers, too much for a small network."""
    past_pi: PastPi = "none"
    """What stands for cos(θ + m) where θ + m is past π; see `arcface_jax.margins.combined`."""
    gradient: GradientName = "exact"
    """exact: of the margin as written. straight_through: the margin counts as a constant (arcface_torch)."""


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """SGD with momentum, and its learning rate over time."""

    learning_rate: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay, added to the gradient (coupled, as the papers do)."""
    decay: Literal["kernels", "all"] = "kernels"
    """What decays. kernels: convolutions, dense layers, class weights. all: also biases, normalisation, PReLU."""
    schedule: Literal["polynomial", "steps", "cosine"] = "polynomial"
    """polynomial: to 0 with power 1 (arcface_torch). steps: ÷10 at 5/8 and 7/8 of the run (the paper). cosine."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises linearly from 0."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long, how often, where."""

    steps: int = 1400
    """Optimiser steps."""
    batch_size: int = 64
    """Images a step, over all devices."""
    seed: int = 0
    """Seed of everything random: data, split, pairs, initial weights, shuffling, flips."""
    evaluate_every: int = 350
    """Steps between verifications on the held-out identities."""
    log_every: int = 10
    """Steps between lines of metrics."""
    folder: str | None = None
    """Run folder to write; default runs/LOSS-DATE-TIME."""
    resume: bool = False
    """Go on from the last checkpoint in run.folder instead of refusing a folder that exists."""
    devices: int | None = None
    """How many of this machine's devices to use; default all."""
    parallel: Literal["jit", "pmap"] = "jit"
    """Over several devices: jit over a mesh, or pmap."""
    statistics: Literal["global", "local"] = "global"
    """Batch statistics over all devices, or each device's own (pmap only)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run. Saved as config.json in its run folder."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def to_json(self) -> str:
        """The configuration as indented JSON, every field present."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json_file(cls, path: pathlib.Path) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          InputError: the file is missing, is not JSON, or has a section or field this version does not know.
        """
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise InputError(f"configuration {path}: cannot be read ({error.strerror}); check the path") from error
        except ValueError as error:
            raise InputError(f"configuration {path}: is not JSON ({error}); use a config.json of a run") from error
        sections = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or not content.keys() <= sections.keys():
            raise InputError(f"configuration {path}: sections must be among {', '.join(sections)}")
        return cls(**{name: _section(path, name, sections[name], value) for name, value in content.items()})


def _section(path: pathlib.Path, name: str, factory: Any, values: Any) -> Any:
    known = {field.name for field in dataclasses.fields(factory)}
    if not isinstance(values, dict) or not values.keys() <= known:
        unknown = sorted(set(values) - known) if isinstance(values, dict) else values
        raise InputError(f"configuration {path}: section {name} has unknown content {unknown}; known: {sorted(known)}")
    hints = get_type_hints(factory)
    for field, value in values.items():
        if not _fits(value, hints[field]):
            kind = getattr(hints[field], "__name__", str(hints[field]).replace("typing.", ""))
            raise InputError(f"configuration {path}: {name}.{field} is {value!r}; give {kind}")
    return factory(**values)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):  # X | None
        return any(_fits(value, one) for one in get_args(hint))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
