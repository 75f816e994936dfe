"""A small problem, and ways to run the same function on several simulated devices."""

import jax
import numpy as np
import pytest

ROWS, CLASSES, DIM = 16, 53, 8


def make_problem():
    """(embeddings [16, 8], class weights by K, labels [16] with one ignored, weights of the
    examples [16]), float64.
    """
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, ROWS)
    labels[3] = -1
    embeddings, importance = generator.normal(size=(ROWS, DIM)), generator.normal(size=ROWS)
    embeddings[5] = generator.normal(size=DIM)
    tables = {1: generator.normal(size=(CLASSES, DIM)), 3: generator.normal(size=(CLASSES, 3, DIM))}
    return embeddings, tables, labels, importance


@pytest.fixture
def problem():
    """New arrays for every test: JAX remembers what a constant became where float64 was off."""
    return make_problem()


@pytest.fixture
def mapped(request):
    """By the parameter jit, shard_map, pmap or vmap, mapped(f, devices): f on each device of the
    axis "classes" (with jit there is none).

    All arguments and results are split on their axis 0.
    """

    def run(function, devices):
        def split(tree):
            return jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), tree)

        def join(tree):
            return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)

        if request.param == "jit":
            return jax.jit(function)
        if request.param == "shard_map":
            mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("classes",))
            spec = jax.sharding.PartitionSpec("classes")
            return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec))
        if request.param == "pmap":
            each = jax.pmap(function, axis_name="classes", devices=jax.devices()[:devices])
        else:
            each = jax.jit(jax.vmap(function, axis_name="classes"))
        return lambda *arguments: join(each(*split(arguments)))

    run.axis = None if request.param == "jit" else "classes"
    return run
