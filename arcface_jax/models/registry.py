"""Backbones by name."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.models.iresnet import STAGE_BLOCKS, IResNet
from arcface_jax.models.layers import Dtype

Builder = Callable[..., nn.Module]

_BUILDERS: dict[str, Builder] = {}


def register(name: str, builder: Builder) -> None:
    """Makes `builder(embedding_size, width, dropout, dtype, axis_name) -> nn.Module` known as `name`."""
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
) -> nn.Module:
    """Builds the backbone called `name`.

    Args:
      name: one of `names()`.
      embedding_size: D.
      width: channels of the first stage; 64 is the published size.
      dropout: rate before the embedding layer.
      dtype: of the computation; parameters stay float32.
      axis_name: mapped axis that batch statistics are averaged over; None for none.

    Returns: a Flax module mapping ([N, H, W, 3] normalised images, train) to [N, D].

    Raises:
      InputError: no backbone has that name, or a size is not positive.
    """
    if name not in _BUILDERS:
        raise InputError(f"model.name: no backbone is called {name!r}; choose one of {', '.join(names())}")
    if embedding_size < 1 or width < 1:
        raise InputError(f"model.embedding_size and model.width must be positive, got {embedding_size} and {width}")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"model.dropout must be in [0, 1), got {dropout}")
    return _BUILDERS[name](
        embedding_size=embedding_size, width=width, dropout=dropout, dtype=dtype, axis_name=axis_name
    )


def count_parameters(backbone: nn.Module, image_size: int) -> int:
    """The number of parameters at image_size × image_size, counted without allocating any."""
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros((1, image_size, image_size, 3), jnp.float32))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _iresnet(depth: int) -> Builder:
    def build(**options: object) -> nn.Module:
        return IResNet(STAGE_BLOCKS[depth], **options)  # type: ignore[arg-type]

    return build


for _depth in STAGE_BLOCKS:
    register(f"iresnet{_depth}", _iresnet(_depth))
