"""A training step on the device at hand beside the same step in float32 on a CPU.

`pytest -m accelerator` runs this and the marked tests of other files on whatever device JAX finds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.losses import ArcFace
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.iresnet import IResNet
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.schedules import sgd
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import make_step
from tests.devices import DEFAULT_ROUNDOFF, roundoff

pytestmark = pytest.mark.accelerator

ROWS, SIDE, CLASSES, DIM = 16, 8, 53, 16
# Type of the backbone, precision of the head, precision of all other products, unit roundoff.
KINDS = {
    "float32": (jnp.float32, "highest", "highest", 2.0**-24),
    "as the device multiplies": (jnp.float32, "high", None, roundoff(DEFAULT_ROUNDOFF)),
    "bfloat16": (jnp.bfloat16, "bfloat16", None, 2.0**-8),
}


def one_step(kind):
    """(mean loss, what a step adds to all parameters and class weights, as one vector)."""
    dtype, precision, others, _ = KINDS[kind]
    network = IResNet((1,), width=4, embedding_size=DIM, dtype=dtype)
    head = HeadConfig("chunked", chunk=16, update="fused", precision=precision)
    schedule, loss = optax.constant_schedule(0.1), ArcFace(scale=16.0)
    optimiser, random = sgd(schedule), np.random.default_rng(0)
    images = random.normal(size=(ROWS, SIDE, SIDE, 3)).astype(np.float32)
    labels = random.integers(0, CLASSES, ROWS).astype(np.int32)
    step = make_step(
        linen_apply(network), loss, optimiser, head=head, schedule=schedule, num_classes=CLASSES
    )

    @jax.jit
    def begin():
        variables = network.init(jax.random.key(0), images[:1])
        sizes = {"num_classes": CLASSES, "embedding_size": DIM, "head": head}
        return initial_state(variables, loss, optimiser, jax.random.key(1), **sizes)

    with jax.default_matmul_precision(others):
        state = begin()
        new, metrics = jax.jit(step)(state, jax.random.key(2), images, labels)

    def learnt(state):
        leaves = jax.tree.leaves((state.params["backbone"], state.class_weights))
        return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)

    return float(metrics["loss"]), learnt(new) - learnt(state)


@functools.cache
def on_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        return one_step("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_cpus_to_the_roundoff_of_its_products(kind):
    """The rounding of one product is u; through the network's layers and back it grows to some."""
    u, (loss, moved), (wanted_loss, wanted) = KINDS[kind][3], one_step(kind), on_cpu()
    assert loss == pytest.approx(wanted_loss, rel=max(1e-5, 2 * u))
    error = np.linalg.norm(moved - wanted) / np.linalg.norm(wanted)
    assert error <= max(1e-3, 16 * u)
    if u > 2.0**-20:
        assert error > u / 16  # it was rounded
