"""The main public functions alike in Python, under jit, on a device and under pmap."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from arcface_jax.cosine import angle, arcface_logits, cosine_logits, normalise_rows
from arcface_jax.heads import fused_head_step, init_head
from arcface_jax.heads.fused import RowSgd
from arcface_jax.losses import AdaFace, adaface_init, adaface_loss, margin_softmax_loss
from arcface_jax.margins import arcface, sphereface_original

GENERATOR = np.random.default_rng(0)
EMBEDDINGS = GENERATOR.normal(size=(6, 8)).astype(np.float32)
WEIGHTS = GENERATOR.normal(size=(5, 8)).astype(np.float32)
LABELS = np.array([0, 4, -1, 2, 3, 3], np.int32)
COSINES = np.linspace(-1.0, 1.0, 9, dtype=np.float32)


def adaface(embeddings, weights, labels):
    return AdaFace()({"class_weights": weights}, AdaFace().init(), embeddings, labels)


def adaface_function(embeddings, weights, labels):
    return adaface_loss(embeddings, weights, labels, adaface_init())


def fused(embeddings, weights, labels):
    state = init_head(weights, RowSgd())
    return tuple(fused_head_step(state, embeddings, labels, 0.1, chunk=2))


BATCH = (EMBEDDINGS, WEIGHTS, LABELS)
FUNCTIONS = {
    "normalise_rows": (normalise_rows, (EMBEDDINGS,)),
    "cosine_logits": (cosine_logits, (EMBEDDINGS, WEIGHTS)),
    "arcface_logits": (arcface_logits, BATCH),
    "angle": (angle, (COSINES,)),
    "arcface": (lambda cosine: arcface(0.5, past_pi="linear")(cosine), (COSINES,)),
    "sphereface": (lambda cosine: sphereface_original()(cosine), (COSINES,)),
    "margin_softmax_loss": (functools.partial(margin_softmax_loss, with_cosines=True), BATCH),
    "in_chunks": (functools.partial(margin_softmax_loss, chunk=2, with_cosines=True), BATCH),
    "its_gradient": (jax.grad(lambda *a: margin_softmax_loss(*a).sum(), argnums=(0, 1)), BATCH),
    "adaface": (adaface, BATCH),
    "adaface_loss": (adaface_function, BATCH),
    "fused_head_step": (fused, BATCH),
}


@functools.cache
def in_double(name):
    function, arguments = FUNCTIONS[name]
    with jax.enable_x64(True):
        double = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arguments]
        return jax.tree.map(np.float64, jax.device_get(jax.jit(function)(*double)))


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, with_pmap=True)
    @parameterized.named_parameters((name, name) for name in FUNCTIONS)
    def test_the_result_is_the_same(self, name):
        function, arguments = FUNCTIONS[name]
        found = jax.device_get(self.variant(function)(*map(jnp.asarray, arguments)))
        chex.assert_trees_all_close(
            jax.tree.map(np.float64, found), in_double(name), rtol=1e-4, atol=1e-4
        )
        chex.assert_tree_all_finite(found)
