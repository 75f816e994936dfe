"""A backbone that compiles in a moment, known as one_convolution."""

import flax.linen as nn

from arcface_jax.models import registry
from arcface_jax.models.layers import EmbeddingBatchNorm


class OneConvolution(nn.Module):
    """Convolution – ReLU – dense – batch normalisation."""

    embedding_size: int

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(images)).reshape(images.shape[0], -1)
        return EmbeddingBatchNorm(epsilon=1e-5)(nn.Dense(self.embedding_size)(x), train)


if "one_convolution" not in registry.names():
    registry.register(
        "one_convolution", lambda *, embedding_size, **_: OneConvolution(embedding_size)
    )

SMALL = {
    **{
        "data.image_size": 16,
        "data.identities": 8,
        "data.images_per_identity": 6,
        "data.pairs": 60,
    },
    **{
        "data.test_fraction": 0.5,
        "model.name": "one_convolution",
        "model.embedding_size": 8,
        "run.steps": 4,
    },
    **{"run.batch_size": 8, "run.evaluate_every": 2, "run.log_every": 1, "run.devices": 1},
}
"""A run of a moment, as settings by "section.name"."""

SMALL_OPTIONS = [
    text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))
]
"""The same as on a command line."""
