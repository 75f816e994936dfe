"""UniTSFace: a margin softmax over the classes, and beside it one threshold for all pairs of
examples.

The authors compare an example with a memory of one embedding of every class, some steps old. Here
it is compared with the other examples of the batch, on all devices, so that both take part in the
gradient; `data.sampler balanced` gives each example others of its class.

References:
  Li et al., UniTSFace, NeurIPS 2023, section 3; the authors' code for m = 0.4 and m′ = 0.1.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_between, check_floating, check_labels, check_positive
from arcface_jax.losses.arcface import CosFace
from arcface_jax.losses.loss import AT_START, Context, LossOutput
from arcface_jax.losses.triplet import pairs_of_batch
from arcface_jax.losses.untrained import random_cosines


def uss_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    bias: jax.Array,
    *,
    scale: float = 64.0,
    margin: float = 0.1,
    axis_name: Any = None,
    precision: str = "highest",
) -> jax.Array:
    """The unified-threshold sample-to-sample loss

        mean over positives of ln(1 + e^{−γ·(cosθ_p − m) + b}) + Σ over negatives of
        ln(1 + e^{γ·cosθ_n − b}).

    Args:
      embeddings: [N, D].
      labels: [N] integers, 0 or more; a row labelled −1 is neither anchor nor positive nor
        negative.
      bias: b, a scalar array to learn; b/γ is the threshold.
      scale: γ > 0.
      margin: m, of the cosine, in [0, 2].
      axis_name: of the devices to search beside this one; anchors stay local.
      precision: of the product; see `arcface_jax.cosine.product`.

    Returns: [N]; without a positive, the sum over negatives alone.

    Raises:
      InputError: for a wrong shape, dtype, label or number.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0])
    bias = check_floating("bias", bias, 0)
    check_positive("scale", scale)
    check_between("margin", margin, 0.0, 2.0)
    cosine, positive, negative = pairs_of_batch(embeddings, labels, axis_name, precision)
    logits = scale * cosine - bias
    pull = jnp.where(positive, jax.nn.softplus(scale * margin - logits), 0.0)
    push = jnp.where(negative, jax.nn.softplus(logits), 0.0)
    count = jnp.maximum(jnp.sum(positive, axis=-1), 1)
    return jnp.sum(pull, axis=-1) / count + jnp.sum(push, axis=-1)


def uss_bias(num_classes: int, embedding_size: int, scale: float) -> float:
    """ln C + γ²/(2D), near the mean of ln Σ e^{γ·cosθ} over C random directions, from which the
    authors start; γ/2 at most.

    Args:
      num_classes: C.
      embedding_size: D.
      scale: γ.

    Returns: b.
    """
    return min(math.log(num_classes) + scale**2 / (2 * embedding_size), scale / 2)


@dataclasses.dataclass(frozen=True)
class UniTSFace(CosFace, name="unitsface"):
    """s·(cosθ − m), plus ln(1 + e^{s(m′ − cosθ_p) + b}) + Σ ln(1 + e^{s·cosθ_n − b}) over the pairs
    of the batch (Li et al., NeurIPS 2023).
    """

    over_pairs: ClassVar[bool] = True

    margin: float = 0.4
    pair_margin: float = 0.1
    """m′, of the cosine of two examples of a class, in [0, 2]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("pair_margin", self.pair_margin, 0.0, 2.0)

    def formula(self) -> str:
        """The target logit over s, for people."""
        return f"{super().formula()}, and one threshold for all pairs, margin {self.pair_margin:g}"

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """{"class_weights", "bias"}."""
        params = super().init_params(key, num_classes, embedding_size)
        bias = uss_bias(num_classes, embedding_size, self.scale)
        return {**params, "bias": jnp.asarray(bias, jnp.float32)}

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """The softmax's, with `uss_loss` of the batch."""
        out = super().__call__(params, state, embeddings, labels, context, **over)
        pairs = uss_loss(
            embeddings,
            labels,
            params["bias"],
            scale=self.scale,
            margin=self.pair_margin,
            axis_name=context.axis_name,
            precision=context.precision,
        )
        return out._replace(loss=out.loss + pairs)

    def expected_initial_loss(self, num_classes: int, embedding_size: int, **options: Any) -> float:
        """The softmax's, and that of a positive of each example; its few negatives cost little."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(CosFace)}
        softmax = CosFace(**fields).expected_initial_loss(num_classes, embedding_size, **options)
        cosines, weights = random_cosines(embedding_size)
        bias = uss_bias(num_classes, embedding_size, self.scale)
        logits = self.scale * (self.pair_margin - cosines) + bias
        return softmax + float(weights @ np.logaddexp(0.0, logits))
