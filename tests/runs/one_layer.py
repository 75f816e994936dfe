"""A network that compiles in no time, for runs of many processes: `--model.name
tests.runs.one_layer:OneLayer`.
"""

import flax.linen as nn


class OneLayer(nn.Module):
    """A dense layer on the mean of each 4×4 pixels."""

    embedding_size: int = 16
    width: int = 2
    dropout: float = 0.0
    dtype: object = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.avg_pool(images, (4, 4), (4, 4)).reshape(images.shape[0], -1)
        return nn.BatchNorm(not train, name="features")(nn.Dense(self.embedding_size)(x))
