"""What a configuration computes: network, loss, optimiser and the step, for a number of classes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from arcface_jax.arguments import check_between
from arcface_jax.counts import number_of
from arcface_jax.data.augment import augment
from arcface_jax.errors import InputError, reason
from arcface_jax.heads import RowSgd
from arcface_jax.losses import Context, Loss, MarginSoftmax, loss_name
from arcface_jax.losses.untrained import first_loss_tolerance
from arcface_jax.models import registry
from arcface_jax.models.any_network import brings_weights, untrained_arrays
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.layer_order import depths
from arcface_jax.pixels import CONVENTIONS, PixelConvention, normalise
from arcface_jax.training.config import (
    PROFILE_AFTER,
    Config,
    HeadConfig,
    ModelConfig,
    OptimiserConfig,
    RunConfig,
)
from arcface_jax.training.optimisers import create_optimiser, create_schedule, frozen_steps
from arcface_jax.training.sharding import Placement, check_batch
from arcface_jax.training.state import DATA_AXIS, TrainState, initial_state
from arcface_jax.training.step import StepFunction, make_step


@dataclasses.dataclass(frozen=True)
class Program:
    """What a configuration computes, for a number of classes: no data yet.

    Attributes:
      config: the configuration.
      num_classes: C.
      class_counts: [C], training images of each class; ones where there are no data.
      backbone: the embedding network.
      optimiser: over {"backbone", "head"}.
      schedule: the learning rate by update.
      placement: the devices that share the work, of all processes.
      teacher: of config.model.teacher, from normalised images to embeddings; None without.
    """

    config: Config
    num_classes: int
    class_counts: np.ndarray
    backbone: nn.Module
    optimiser: optax.GradientTransformation
    schedule: optax.Schedule
    placement: Placement
    teacher: Callable[[Any], jax.Array] | None = dataclasses.field(default=None, kw_only=True)

    @property
    def loss(self) -> Loss:
        """The configuration's."""
        return self.config.loss

    @property
    def starts_trained(self) -> bool:
        """Whether the backbone has a start other than random weights of its own."""
        return self.config.model.init is not None or brings_weights(self.backbone)

    @property
    def pixels(self) -> PixelConvention:
        """What the backbone expects of its pixels."""
        return CONVENTIONS[self.config.model.pixels]

    @property
    def shards(self) -> int:
        """How many devices the classes are split over."""
        return len(self.placement.devices) if self.placement.split_classes else 1

    @property
    def key(self) -> jax.Array:
        """Of the run, the same at every step."""
        return jax.random.key(self.config.run.seed)

    def prepare(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """uint8 images, augmented and normalised."""
        return normalise(augment(images, keys, self.config.augmentation), self.pixels)

    def pass_options(self, *, frozen: bool = False) -> dict[str, Any]:
        """The arguments of `make_pass`."""
        config, pmap = self.config, self.config.run.parallel == "pmap"
        return {
            "apply": linen_apply(self.backbone, train=not frozen),
            "loss": config.loss,
            "head": config.head,
            "prepare": self.prepare,
            "schedule": self.schedule,
            "num_classes": self.num_classes,
            "class_counts": self.class_counts,
            "total_steps": config.run.steps,
            "row_optimiser": _row_optimiser(config),
            "axis_name": DATA_AXIS if pmap else None,
            "mesh": self.placement.mesh if self.placement.split_classes and not pmap else None,
            "accumulate": config.run.accumulate,
            "frozen": frozen,
            "teacher": self.teacher,
            "teacher_weight": config.model.teacher_weight,
        }

    def make_step(self, *, frozen: bool = False) -> StepFunction:
        """The pure step, of one device under pmap, else of all; with a frozen backbone or not."""
        return make_step(
            optimiser=self.optimiser,
            clip=self.config.optimiser.clip,
            clip_over=self.config.optimiser.clip_over,
            average_decay=self.config.optimiser.ema,
            **self.pass_options(frozen=frozen),
        )

    def compile_step(self) -> StepFunction:
        """The step on whole arrays; it compiles when it is first called.

        While the backbone is frozen that is another program: a choice within one would be made, on
        a CPU, by convolutions many times slower.
        """
        pmap = self.config.run.parallel == "pmap"
        training = self.placement.compile(self.make_step(), pmap=pmap)
        steps = frozen_steps(self.config.optimiser, self.config.run.steps)
        if steps == 0:
            return training
        at_first = self.placement.compile(self.make_step(frozen=True), pmap=pmap)
        thawed = False

        def run(state: TrainState, *key_and_batch: Any) -> Any:
            nonlocal thawed  # once it is, nobody waits for the count of updates any more
            thawed = thawed or int(state.updates) >= steps
            return (training if thawed else at_first)(state, *key_and_batch)

        return run

    def make_state(self, shards: int | None = None) -> TrainState:
        """The state at step 0, for another number of shards if given: a pure function, to be
        compiled or shaped.
        """
        config = self.config
        backbone_key, head_key = jax.random.split(self.key)
        images = jnp.zeros((1, *config.data.size, 3), jnp.float32)
        return initial_state(
            self.backbone.init(backbone_key, images),
            config.loss,
            self.optimiser,
            head_key,
            num_classes=self.num_classes,
            embedding_size=config.model.embedding_size,
            head=config.head,
            row_optimiser=_row_optimiser(config),
            shards=self.shards if shards is None else shards,
            average=config.optimiser.ema > 0,
        )

    def expected_initial_loss(self, norm: float | None = None) -> float | None:
        """Before training, of embeddings of this length. A trained backbone's are as far from new
        class weights as random ones are; None where their length is not given, or where the loss
        has no class weights.
        """
        if self.starts_trained:
            learnt = jax.eval_shape(lambda: self.loss.init_params(jax.random.key(0), 2, 2))
            if norm is None or "class_weights" not in learnt:
                return None
        return self.loss.expected_initial_loss(
            self.num_classes,
            self.config.model.embedding_size,
            class_counts=self.class_counts,
            norm=norm,
            sample_rate=self.config.head.sample_rate,
        )

    def may_start_with(self, seen: float, expected: float) -> bool:
        """Whether the loss of the first batch is as near the expected one as chance leaves it.

        The images of a person share the weights of their class, and may be much alike: with the
        balanced sampler the people of a batch are what is independent.
        """
        scale, data = getattr(self.loss, "scale", 0.0), self.config.data
        each = data.images_each if data.sampler == "balanced" else 1
        size, drawn = self.config.model.embedding_size, self.config.run.batch_size // each
        return abs(seen - expected) <= first_loss_tolerance(expected, scale, size, max(1, drawn))


def _row_optimiser(config: Config) -> RowSgd:
    return RowSgd(config.optimiser.momentum, config.optimiser.weight_decay)


def create_backbone(config: Config, axis_name: str | None = None) -> nn.Module:
    """The backbone that config.model describes.

    Raises:
      InputError: there is none of that name, it does not have a setting that was changed, or its
        embeddings are not of the size that config.model says.
    """
    model, default = config.model, ModelConfig()
    settings = {
        name: getattr(model, name)
        for name in (
            "embedding_size",
            "width",
            "dropout",
            "dtype",
            "remat",
            "running_variance",
            "initial_weights",
            "epsilon",
        )
    }
    unchanged = [name for name, value in settings.items() if value == getattr(default, name)]
    settings |= {"dtype": jnp.dtype(model.dtype), "axis_name": axis_name}
    if axis_name is None:
        unchanged.append("axis_name")
    seed = config.run.seed
    backbone = registry.create(model.name, **settings, unchanged=unchanged, seed=seed)
    if ":" in model.name:
        images = jnp.zeros((2, *config.data.size, 3))
        try:
            made = jax.eval_shape(backbone.init_with_output, jax.random.key(0), images)
        except InputError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise InputError(
                f"model.name: {model.name!r} fails on images {images.shape} ({reason(error)}); it "
                "must map a batch of the size data.image-size"
            ) from error
        embeddings, variables = made
        whole = [
            f"{'/'.join(place)} ({leaf.dtype})"
            for place, leaf in flatten_dict(variables.get("params", {})).items()
            if not jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        whole += untrained_arrays(backbone) if "params" not in variables else []
        if whole:
            more = f" and {number_of(len(whole) - 1, 'other')}" if len(whole) > 1 else ""
            raise InputError(
                f"model.name: {model.name!r} has parameters that are whole numbers, {whole[0]}"
                f"{more}, as of a quantised network; training needs them in floating point"
            )
        if "params" not in variables:
            raise InputError(
                f"model.name: {model.name!r} has no parameters to train; for a head alone, set "
                "--optimiser.frozen 1"
            )
        if embeddings.shape != (2, model.embedding_size):
            raise InputError(
                f"model.embedding_size {model.embedding_size}: {model.name!r} makes of two images "
                f"an array of shape {embeddings.shape}; it must be (2, D), with that D"
            )
    return backbone


def create_program(
    config: Config, num_classes: int, class_counts: np.ndarray | None = None
) -> Program:
    """Checks the settings and builds what they compute.

    Raises:
      InputError: a setting is out of range, or without effect.
    """
    run = config.run
    _check_run(run)
    devices = _devices(run)
    check_batch(run.batch_size, len(devices), run.accumulate)
    _check_accumulation(config)
    _check_head(config.loss, config.head, config.optimiser)
    pmapped, split = run.parallel == "pmap", config.head.kind == "sharded"
    if pmapped and config.head.update == "fused" and not split and len(devices) > 1:
        raise InputError(
            "head.update fused under pmap needs --head.kind sharded: each device would go its own "
            "way"
        )
    schedule = create_schedule(config.optimiser, run.steps, run.batch_size)
    over = DATA_AXIS if pmapped and run.statistics == "global" else None
    backbone = create_backbone(config, over)
    _check_start(config, brings_weights(backbone))
    return Program(
        config=config,
        num_classes=num_classes,
        class_counts=np.ones(num_classes) if class_counts is None else class_counts,
        backbone=backbone,
        optimiser=create_optimiser(
            config.optimiser, schedule, run.steps, _depths(config, backbone)
        ),
        schedule=schedule,
        placement=Placement(tuple(devices), split),
    )


def _depths(config: Config, backbone: nn.Module) -> Any:
    if config.optimiser.first_layer_rate == 1.0:
        return None
    images = jax.ShapeDtypeStruct((1, *config.data.size, 3), jnp.float32)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), images)

    def apply(params: Any, images: jax.Array, stats: Any) -> Any:
        return backbone.apply({"params": params, "batch_stats": stats}, images)

    return depths(apply, variables["params"], images, variables.get("batch_stats", {}))


def _check_head(loss: Loss, head: HeadConfig, optimiser: OptimiserConfig) -> None:
    name, default = loss_name(loss), HeadConfig()

    def refuse(fields: tuple[str, ...], why: str) -> None:
        for field in fields:
            if (value := getattr(head, field)) != getattr(default, field):
                raise InputError(f"head.{field} {value} does nothing with {why}; leave it out")

    if head.kind == "dense":
        refuse(("chunk", "sample_rate", "update", "kernel", "skip"), "head.kind dense")
    elif not loss.any_head:
        raise InputError(
            f"head.kind {head.kind} has no loss.name {name}, which needs all logits; use dense"
        )
    if head.chunk is not None and head.chunk < 1:
        raise InputError(f"head.chunk is {head.chunk}; pass 1 or more classes")
    check_between("head.sample_rate", head.sample_rate, 0.0, 1.0, open_low=True)
    check_between("head.skip", head.skip, 0.0, 1.0)
    if head.kernel == "xla":
        refuse(("skip",), "head.kernel xla")
    else:
        refuse(("chunk",), "head.kernel pallas")
        if (centres := getattr(loss, "sub_centers", 1)) > 1:
            raise InputError(f"head.kernel pallas has no loss.sub_centers {centres}; use xla")
        if not loss.any_kernel:
            raise InputError(
                f"head.kernel pallas has no loss.name {name}, for its wrong classes have other "
                "logits than s·cosθ; use xla"
            )
    learnt = jax.eval_shape(lambda: loss.init_params(jax.random.key(0), 2, 2))
    if getattr(loss, "margin_by_size", 0.0):
        context = Context(key=jax.random.key(0), class_counts=np.ones(2))
        batch = jnp.zeros((2, 2)), jnp.arange(2)
        jax.eval_shape(lambda params: loss(params, loss.init(), *batch, context).loss, learnt)
    if "class_weights" not in learnt:
        refuse(("precision",), f"loss.name {name}, which has no class weights")
    if head.update == "optimiser":
        refuse(("unsampled", "dtype"), "head.update optimiser")
        return
    refuse(("kernel",), "head.update fused")
    kind: Any = type(loss)  # a fused head asks for its psi alone
    more = kind.__call__ is not MarginSoftmax.__call__ or kind.needs_target
    more = more or kind.penalty is not MarginSoftmax.penalty
    if loss.needs_norms or more or learnt.keys() != {"class_weights"}:
        raise InputError(
            f"head.update fused has no loss.name {name}, whose margin, penalty or scale has a "
            "gradient or needs a pass of its own; use optimiser"
        )
    if optimiser.name != "sgd":
        raise InputError(
            f"head.update fused learns by SGD alone, not {optimiser.name}; use --optimiser.name "
            "sgd or --head.update optimiser"
        )
    if optimiser.clip is not None and optimiser.clip_over == "all":
        raise InputError(
            "head.update fused never stores the head's gradient, so optimiser.clip cannot measure "
            "it; use --optimiser.clip-over backbone or --head.update optimiser"
        )
    if head.sample_rate == 1.0:
        refuse(("unsampled",), "head.sample_rate 1")


def _check_start(config: Config, own_weights: bool) -> None:
    model = config.model
    check_between("model.teacher_weight", model.teacher_weight, 0.0, math.inf, open_low=True)
    if model.teacher is None and model.teacher_weight != ModelConfig.teacher_weight:
        raise InputError("model.teacher_weight: is of model.teacher, which is not set; give both")
    if model.teacher is not None and config.optimiser.frozen == 1.0:
        raise InputError("model.teacher does nothing with optimiser.frozen 1; leave one out")
    decay, frozen = config.optimiser.start_decay, config.optimiser.frozen
    if decay and config.model.init is None and not own_weights:
        raise InputError(
            f"optimiser.start_decay {decay:g} draws the weights to those of model.init, which is "
            "not set; set --model.init, or leave it out"
        )
    if decay and frozen == 1.0:
        raise InputError(
            f"optimiser.start_decay {decay:g} does nothing with optimiser.frozen 1; leave one out"
        )


def _check_run(run: RunConfig) -> None:
    if run.seed < 0:
        raise InputError(f"run.seed must not be negative, got {run.seed}")
    for name in ("steps", "log_every", "evaluate_every", "keep", "bad_steps"):
        if getattr(run, name) < 1:
            raise InputError(f"run.{name} must be positive, got {getattr(run, name)}")
    if run.checkpoint_every is not None and run.checkpoint_every < 1:
        raise InputError(f"run.checkpoint_every must be positive, got {run.checkpoint_every}")
    if run.keep_best < 0 or run.profile < 0:
        raise InputError(
            f"run.keep_best and run.profile must not be negative, got {run.keep_best} and "
            f"{run.profile}"
        )
    if run.profile and run.steps < PROFILE_AFTER + run.profile:
        raise InputError(
            f"run.profile {run.profile} begins after step {PROFILE_AFTER}, and run.steps is "
            f"{run.steps}; give at least {PROFILE_AFTER + run.profile} steps"
        )
    if run.statistics == "local" and run.parallel == "jit":
        raise InputError(
            "run.statistics local needs --run.parallel pmap; under jit a step sees the whole batch"
        )
    if run.parallel == "pmap" and jax.process_count() > 1:
        raise InputError(
            "run.parallel pmap is for one process; use jit, whose mesh spans processes"
        )


def _check_accumulation(config: Config) -> None:
    if config.run.accumulate == 1:
        return
    if config.head.update == "fused":
        raise InputError(
            f"run.accumulate {config.run.accumulate} with head.update fused would update the class "
            "rows in every part; use --head.update optimiser"
        )
    if config.loss.over_pairs:
        raise InputError(
            f"run.accumulate {config.run.accumulate} with loss.name {loss_name(config.loss)} "
            "leaves no pairs of one person in a part; leave it out"
        )


def _devices(run: RunConfig) -> list[jax.Device]:
    available = jax.devices()
    if run.devices is not None and not 1 <= run.devices <= len(available):
        raise InputError(
            f"run.devices {run.devices}: there are {len(available)} of {available[0].device_kind}"
        )
    if run.devices is not None and jax.process_count() > 1 and run.devices != len(available):
        raise InputError(
            f"run.devices {run.devices}: several processes use all {len(available)} of their "
            "devices"
        )
    return available[: run.devices]
