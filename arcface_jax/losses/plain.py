"""Plain softmax with a bias, nothing normalised: the ArcFace paper's baseline (its eq. 1)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.cosine import head_dtype, product, target_mask
from arcface_jax.errors import InputError
from arcface_jax.heads.softmax import blank_ignored
from arcface_jax.losses.loss import AT_START, Context, Loss, LossOutput, seen_by_scores
from arcface_jax.losses.softmax import cross_entropy


@dataclasses.dataclass(frozen=True)
class Softmax(Loss, name="softmax"):
    """Cross-entropy of w·x + b, nothing normalised (arXiv:1801.07698, eq. 1)."""

    label_smoothing: float = 0.0
    """Share ε of the wanted distribution that is spread over all classes."""

    def __post_init__(self) -> None:
        check_between("label_smoothing", self.label_smoothing, 0.0, 1.0)

    def __str__(self) -> str:
        return "w·x + b, nothing normalised"

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """{"class_weights": [C, D], "bias": [C]}."""
        params = super().init_params(key, num_classes, embedding_size)
        return {**params, "bias": jnp.zeros(num_classes, jnp.float32)}

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
    ) -> LossOutput:
        """Losses from all logits."""
        embeddings = check_floating("embeddings", embeddings, 2)
        weights = check_floating("class_weights", params["class_weights"], 2)
        bias = check_floating("bias", params["bias"], 1)
        if embeddings.shape[1] != weights.shape[1] or bias.shape[0] != weights.shape[0]:
            raise InputError(
                f"embeddings {embeddings.shape}, class_weights {weights.shape} and bias "
                f"{bias.shape} do not fit; pass [N, D], [C, D] and [C]"
            )
        labels = check_labels(labels, embeddings.shape[0], weights.shape[0])
        dtype = head_dtype(embeddings, weights, bias)
        x = blank_ignored(embeddings, labels).astype(dtype)
        products = product("nd,cd->nc", x, weights.astype(dtype), context.precision)
        logits, mask = products + bias, target_mask(labels, weights.shape[0])
        loss = cross_entropy(logits, mask, self.label_smoothing)
        return LossOutput(loss, state, *seen_by_scores(logits, mask, x, weights))


def softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    precision: str = "highest",
    **numbers: Any,
) -> jax.Array:
    """`Softmax` as a function: cross-entropy of W·x + b.

    Args:
      embeddings: x, [N, D].
      class_weights: W, [C, D].
      bias: b, [C].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      precision: of the matrix product; see `arcface_jax.cosine.product`.
      **numbers: fields of `Softmax`: label_smoothing.

    Returns: the loss of each example, [N].

    Raises:
      InputError: for a wrong shape, dtype or label.
    """
    params = {"class_weights": class_weights, "bias": bias}
    context = Context(precision=precision)
    return Softmax(**numbers)(params, {}, embeddings, labels, context).loss
