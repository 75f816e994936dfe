"""Backbones by name."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from arcface_jax.errors import InputError, concerning
from arcface_jax.import_path import load_attribute
from arcface_jax.models.any_network import as_linen
from arcface_jax.models.iresnet import STAGE_BLOCKS, IResNet
from arcface_jax.models.layers import Backbone, Dtype, InitialWeights, RunningVariance
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.models.resnet import DEPTHS, ResNet
from arcface_jax.models.vit import VisionTransformer

Builder = Callable[..., nn.Module]

_BUILDERS: dict[str, Builder] = {}


def register(name: str, builder: Builder) -> None:
    """Registers a Flax module class, or a function that returns a module, as `name`.

    It gets those settings of `create` that it has, by name.
    """
    if name in _BUILDERS:
        raise InputError(f"backbone {name!r} is registered already; choose another name")
    _BUILDERS[name] = builder


def names() -> list[str]:
    """The registered names; `create` also takes module:attribute."""
    return sorted(_BUILDERS)


def create(
    name: str,
    *,
    embedding_size: int = 512,
    width: int = 64,
    dropout: float = 0.0,
    dtype: Dtype = jnp.float32,
    axis_name: str | None = None,
    remat: bool = False,
    running_variance: RunningVariance = "biased",
    initial_weights: InitialWeights = "he",
    epsilon: float | None = None,
    unchanged: Collection[str] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Builds the backbone called `name`, with those of the settings that it has.

    Args:
      name: one of `names()`, or module:attribute, such as my_nets:Net: your own module class, or
        function that returns what `any_network.as_linen` takes; see `load_attribute` for where it
        is found.
      embedding_size: D.
      width: channels of the first stage of an IResNet; 64 is the published size of every backbone,
        and all channels scale with it.
      dropout: rate before the embedding layer.
      dtype: of the computation; parameters stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None.
      remat: recompute each block's forward pass for its gradient (`jax.checkpoint`): saves memory
        and costs time on accelerators. XLA's CPU compiler merges the two equal passes, so nothing
        changes there.
      running_variance: see `layers.RunningVariance`.
      initial_weights: see `layers.InitialWeights`.
      epsilon: of the batch normalisations; each network's own if None.
      unchanged: the settings that a backbone may lack because nobody set them; by default those
        with their default value here.
      seed: of what a parameter called key (a PRNG key) or rngs (`nnx.Rngs`) is given.

    Returns: a Flax module mapping ([N, H, W, 3] normalised images, train) to [N, D].

    Raises:
      InputError: no backbone has that name, a size is not positive, or the backbone lacks a setting
        that was changed.
    """
    settings = {
        "embedding_size": embedding_size,
        "width": width,
        "dropout": dropout,
        "dtype": dtype,
        "axis_name": axis_name,
        "remat": remat,
        "running_variance": running_variance,
        "initial_weights": initial_weights,
        "epsilon": epsilon,
    }
    if unchanged is None:
        defaults = inspect.signature(create).parameters
        unchanged = [key for key, value in settings.items() if value == defaults[key].default]
    if embedding_size < 1 or width < 1:
        raise InputError(
            f"model.embedding_size and model.width must be positive, got {embedding_size} and "
            f"{width}"
        )
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"model.dropout must be in [0, 1), got {dropout}")
    if epsilon is not None and not 0.0 < epsilon < 1.0:
        raise InputError(f"model.epsilon must be above 0 and below 1, got {epsilon}")
    builder = _builder_of(name)
    randomness: dict[str, Any] = {"key": jax.random.key, "rngs": nnx.Rngs}
    parameters, takes_all = _parameters_of(builder)
    for key in settings:
        if key not in parameters and not takes_all and key not in unchanged:
            advice = "use run.statistics local" if key == "axis_name" else "leave it out"
            raise InputError(f"model.{key}: {name!r} has no such setting; {advice}")
    for key, parameter in parameters.items():
        needed = parameter.default is parameter.empty and key not in settings | randomness
        if needed and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InputError(f"model.name: {name!r} needs {key}, which is no setting; default it")
    if epsilon is None:
        del settings["epsilon"]
    own = {key: value for key, value in settings.items() if key in parameters or takes_all}
    own |= {key: make(seed) for key, make in randomness.items() if key in parameters}
    with concerning(f"model.name: {name!r}"):
        try:
            backbone = as_linen(builder(**own))
        except InputError:
            raise
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"making it failed with {why}") from error
    if "train" not in inspect.signature(backbone.__call__).parameters:
        raise InputError(f"model.name: {name!r}: its __call__ has no train; add train=False")
    return backbone


def _builder_of(name: str) -> Builder:
    if ":" not in name and name not in _BUILDERS:
        raise InputError(
            f"model.name: no backbone is called {name!r}; choose one of {', '.join(names())}, or "
            "your own as module:attribute"
        )
    builder: Any = load_attribute(name, "model.name") if ":" in name else _BUILDERS[name]
    if not (inspect.isclass(builder) or inspect.isroutine(builder) or hasattr(builder, "func")):
        raise InputError(
            f"model.name: {name!r} is no backbone; give a module class, or a function that returns "
            "a module"
        )
    return builder


def _parameters_of(builder: Builder) -> tuple[dict[str, inspect.Parameter], bool]:
    """(its parameters by name, whether it takes any other)."""
    # A class's own, for its metaclass may hide it.
    made_by = builder.__init__ if inspect.isclass(builder) else builder
    parameters = dict(inspect.signature(made_by).parameters)
    parameters.pop("self", None)
    return parameters, any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def in_words(name: str, width: int, embedding_size: int) -> str:
    """A backbone as people name it, with its width if it has that setting: "iresnet50, width 64,
    512-d embedding".
    """
    parameters, takes_all = _parameters_of(_builder_of(name))
    wide = f", width {width}" if takes_all or "width" in parameters else ""
    return f"{name}{wide}, {embedding_size}-d embedding"


_SETTINGS = tuple(inspect.signature(create).parameters)
_OF_TRAINING = {field.name for field in dataclasses.fields(Backbone)} | {"drop_path", "mask_ratio"}
"""Fields that do not change which network a backbone is: those of every `Backbone`, including
epsilon, and a `VisionTransformer`'s drop rates.
"""


def name_of(backbone: nn.Module) -> str | None:
    """The name with which `create` makes this network, given its width, embedding size and epsilon;
    None without one.
    """
    sizes: Any = {key: getattr(backbone, key, 1) for key in ("embedding_size", "width")}
    for name in names():
        made = create(name, **sizes, unchanged=_SETTINGS)
        if type(made) is type(backbone) and _layers_of(made) == _layers_of(backbone):
            return name
    return None


def _layers_of(backbone: nn.Module) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(backbone))
    return {name: getattr(backbone, name) for name in fields if name not in _OF_TRAINING}


def count_parameters(backbone: nn.Module, image_size: int | tuple[int, int]) -> int:
    """The number of parameters, without allocating any.

    Args:
      backbone: a module of this package.
      image_size: side, or (height, width), in pixels.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros((1, height, width, 3), jnp.float32))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


for _depth, _blocks in STAGE_BLOCKS.items():
    register(f"iresnet{_depth}", functools.partial(IResNet, _blocks))
    register(f"se_iresnet{_depth}", functools.partial(IResNet, _blocks, squeeze=16))
    _subsampled = functools.partial(IResNet, _blocks, shortcut="subsampled")
    register(f"ir{_depth}", functools.partial(_subsampled, embedding_affine=False))  # AdaFace's
    if _depth == 100:
        register("ir100_curricularface", functools.partial(_subsampled, inner_norm=False))
for _output in ("A", "B", "C", "D"):  # E is iresnet50
    register(
        f"iresnet50{_output.lower()}", functools.partial(IResNet, STAGE_BLOCKS[50], output=_output)
    )
register("iresnet50_conv7", functools.partial(IResNet, STAGE_BLOCKS[50], stem="conv7"))
for _depth in DEPTHS:
    register(f"resnet{_depth}", functools.partial(ResNet, (_depth - 2) // 6))
register("mobilefacenet", MobileFaceNet)
register("mbf", ArcFaceTorchMobileFaceNet)
register("mbf_large", functools.partial(ArcFaceTorchMobileFaceNet, (2, 8, 12, 4), 4))
register("vit_t", functools.partial(VisionTransformer, 256, 12))
register("vit_s", functools.partial(VisionTransformer, 512, 12))
register("vit_b", functools.partial(VisionTransformer, 512, 24))
register("vit_l", functools.partial(VisionTransformer, 768, 24, drop_path=0.05))
