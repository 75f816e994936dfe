"""Backbones by name."""

import functools
import inspect
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.models.iresnet import STAGE_BLOCKS, IResNet
from arcface_jax.models.layers import Dtype
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.models.resnet import DEPTHS, ResNet
from arcface_jax.models.vit import VisionTransformer

Builder = Callable[..., nn.Module]

_BUILDERS: dict[str, Builder] = {}


def register(name: str, builder: Builder) -> None:
    """Makes `builder(embedding_size, width, dropout, dtype, axis_name) -> nn.Module` known as
    `name`.

    It may take `remat` too, see `create`.
    """
    if name in _BUILDERS:
        raise InputError(f"backbone {name!r} is registered already; choose another name")
    _BUILDERS[name] = builder


def names() -> list[str]:
    """The names that `create` accepts."""
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
) -> nn.Module:
    """Builds the backbone called `name`.

    Args:
      name: one of `names()`.
      embedding_size: D.
      width: channels of the first stage of an IResNet; 64 is the published size of every
        backbone, and all channels are in proportion to it.
      dropout: rate before the embedding layer.
      dtype: of the computation; parameters stay float32.
      axis_name: mapped axis that batch statistics are averaged over; None for none.
      remat: compute each block's forward pass again for its gradient (`jax.checkpoint`): memory for
        time on accelerators. XLA's CPU compiler finds the two passes equal and merges them, so
        nothing changes there.

    Returns: a Flax module mapping ([N, H, W, 3] normalised images, train) to [N, D].

    Raises:
      InputError: no backbone has that name, a size is not positive, or the backbone cannot do what
        `remat` asks.
    """
    if name not in _BUILDERS:
        raise InputError(
            f"model.name: no backbone is called {name!r}; choose one of {', '.join(names())}"
        )
    if embedding_size < 1 or width < 1:
        raise InputError(
            f"model.embedding_size and model.width must be positive, got {embedding_size} and "
            f"{width}"
        )
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"model.dropout must be in [0, 1), got {dropout}")
    by_choice = {}
    if remat:
        parameters = inspect.signature(_BUILDERS[name]).parameters.values()
        if not any(p.name == "remat" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise InputError(f"model.remat: {name!r} cannot compute its blocks again; leave it out")
        by_choice["remat"] = True
    return _BUILDERS[name](
        embedding_size=embedding_size,
        width=width,
        dropout=dropout,
        dtype=dtype,
        axis_name=axis_name,
        **by_choice,
    )


def count_parameters(backbone: nn.Module, image_size: int | tuple[int, int]) -> int:
    """The number of parameters, counted without allocating any.

    Args:
      backbone: a module of this package.
      image_size: side, or (height, width), in pixels.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros((1, height, width, 3), jnp.float32))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _vision_transformer(channels: int, depth: int, drop_path: float) -> Builder:
    def build(*, width: int, **options: object) -> nn.Module:
        heads = 8
        per_head = max(1, channels * width // (64 * heads))
        return VisionTransformer(per_head * heads, depth, heads, drop_path=drop_path, **options)  # type: ignore[arg-type]

    return build


for _depth, _blocks in STAGE_BLOCKS.items():
    register(f"iresnet{_depth}", functools.partial(IResNet, _blocks))
    register(f"se_iresnet{_depth}", functools.partial(IResNet, _blocks, squeeze=16))
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
register("vit_t", _vision_transformer(256, 12, 0.1))
register("vit_s", _vision_transformer(512, 12, 0.1))
register("vit_b", _vision_transformer(512, 24, 0.1))
register("vit_l", _vision_transformer(768, 24, 0.05))
