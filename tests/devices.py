"""What the device that the tests run on does to numbers."""

import jax

DEFAULT_ROUNDOFF = {"cpu": 2.0**-24, "gpu": 2.0**-10, "tpu": 2.0**-8}
"""Unit roundoff of the factors of float32 products and convolutions that name no precision: of
float32, of TF32, should the device cut off bits, and of bfloat16.
"""

HIGH_ROUNDOFF = {"cpu": 2.0**-24, "gpu": 2.0**-10, "tpu": 2.0**-15}
"""The same at precision "high", should the device cut off bits: float32, TF32, and bfloat16 in
three products.
"""


def roundoff(by_platform):
    """Of the device at hand; a platform that is not known rounds as the coarsest."""
    return by_platform.get(jax.default_backend(), 2.0**-8)
