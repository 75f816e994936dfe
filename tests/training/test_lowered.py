"""The whole step in bfloat16 as it is lowered for GPU and TPU: what it multiplies, sums, converts
and moves; and that the state it is given is the memory it works in.
"""

import collections
import functools
import os
import re
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from arcface_jax.heads.traffic import collective_bytes, collectives
from arcface_jax.losses import ArcFace
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.models.resnet import ResNet
from arcface_jax.models.vit import VisionTransformer
from arcface_jax.pixels import ARCFACE_TORCH, normalise
from arcface_jax.training.config import HeadConfig, OptimiserConfig
from arcface_jax.training.optimisers import create_optimiser
from arcface_jax.training.schedules import sgd
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import make_step
from tests.processes import run

BATCH, CLASSES, DIM = 6, 11, 8
KEY = jax.eval_shape(lambda: jax.random.key(0))
NETWORKS = {  # with the side of its images
    "iresnet": (IResNet((1,), DIM, 4), 16),
    "vit": (VisionTransformer(16, 2, 2, DIM), 27),
    "squeeze and excitation": (IResNet((1,), DIM, 4, squeeze=2), 16),
    "mobilefacenet": (MobileFaceNet(DIM, width=4), 32),
    "mbf": (ArcFaceTorchMobileFaceNet((1, 1, 1, 1), embedding_size=DIM, width=4), 32),
    "resnet": (ResNet(1, DIM), 16),
}
QUICK = ("iresnet", "vit")


def lowered(name, platforms=("cuda", "tpu")):
    """The step of a network in bfloat16, from uint8 images."""
    network, side = NETWORKS[name]
    network = network.clone(dtype=jnp.bfloat16)
    loss, optimiser = ArcFace(), sgd(optax.constant_schedule(0.1))
    step = make_step(
        linen_apply(network),
        loss,
        optimiser,
        head=HeadConfig(precision="bfloat16"),
        prepare=lambda images, _: normalise(images, ARCFACE_TORCH),
    )

    def state():
        variables = network.init(jax.random.key(0), jnp.zeros((1, side, side, 3)))
        sizes = {"num_classes": CLASSES, "embedding_size": DIM}
        return initial_state(variables, loss, optimiser, jax.random.key(1), **sizes)

    images = jax.ShapeDtypeStruct((BATCH, side, side, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    traced = jax.jit(step, donate_argnums=0).trace(jax.eval_shape(state), KEY, images, labels)
    return traced.lower(lowering_platforms=platforms)


def operations(operation):
    """(name, element types of operands and results, shape of the first operand) of all operations
    within one.
    """
    for region in operation.regions:
        for block in region.blocks:
            for one in block.operations:
                one = one.operation
                name = one.name.removeprefix("stablehlo.")
                if name == "reduce":  # by what it reduces with
                    inner = next(iter(one.regions[0].blocks[0].operations)).operation.name
                    name = inner.replace("stablehlo.", "reduce by ")
                types = [value.type for value in (*one.operands, *one.results)]
                if types and all(hasattr(each, "element_type") for each in types):
                    yield name, tuple(str(each.element_type) for each in types), types[0].shape
                yield from operations(one)


@functools.cache
def counts(name):
    """(factors, result) of products, types of sums, and of whole batches that are converted or
    moved.
    """
    products, sums, converted, moved = (collections.Counter() for _ in range(4))
    program = lowered(name)
    module = program.compiler_ir("stablehlo")
    for kind, types, shape in operations(module.operation):
        if kind in ("convolution", "dot_general"):
            products[types] += 1
        elif kind == "reduce by add":
            sums[types[0]] += 1
        elif kind in ("convert", "transpose"):
            whole = len(shape) == 4 and shape[0] == BATCH
            (converted if kind == "convert" else moved)[types if whole else len(shape)] += 1
    return products, sums, converted, moved


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_every_product_is_of_bfloat16_and_every_sum_is_of_float32(name):
    products, sums, _, _ = counts(name)
    assert {factors[:2] for factors in products} == {("bf16", "bf16")}
    # Head and last layer, whose results stay float32: three products each.
    assert products["bf16", "bf16", "f32"] >= 6
    assert set(sums) == {"f32"}  # batch statistics, the loss, gradients of slopes and biases


def test_an_iresnet_converts_and_moves_no_map_needlessly():
    """A batch normalisation widens its input once, and the gradient of its result for the sums, and
    rounds its result and the gradient of its input; a PReLU widens two maps to sum the gradient of
    its slopes; the images become float32, then bf16. All is element by element, which a compiler
    takes into what is beside it. The last map alone is laid out anew, for the order of published
    weights, and so is its gradient.
    """
    _, _, converted, moved = counts("iresnet")
    norms, prelus = 6, 2
    assert {types: converted[types] for types in converted if isinstance(types, tuple)} == {
        ("ui8", "f32"): 1,
        ("f32", "bf16"): 1 + 2 * norms,
        ("bf16", "f32"): 2 * norms + 2 * prelus,
    }
    assert moved == {("bf16", "bf16"): 2}


# Donation
# ----------------------------------------------------------------------------------------

MANY, LONG = 4096, 16  # class weights of a quarter of a megabyte, far more than all else
WEIGHTS = 4 * MANY * LONG
HEADS = {
    "dense": HeadConfig(),
    "chunked": HeadConfig("chunked", chunk=256),
    "sampled": HeadConfig("chunked", chunk=256, sample_rate=0.1),
    "fused": HeadConfig("chunked", chunk=256, update="fused"),
    "fused, sampled": HeadConfig("chunked", chunk=256, update="fused", sample_rate=0.1),
    "fused, in bf16": HeadConfig("chunked", chunk=256, update="fused", dtype="bfloat16"),
}
OPTIMISERS = ("sgd", "adamw", "lamb", "lion", "adagrad")


def donated(head, optimiser):
    """A step's program, and the bytes of its state."""
    momentum = {} if optimiser == "sgd" else {"weight_decay": 0.01}
    made = create_optimiser(
        OptimiserConfig(name=optimiser, **momentum), optax.constant_schedule(0.1), 10
    )
    apply = lambda params, statistics, images: (images @ params["kernel"], statistics)  # noqa: E731
    options = {"head": head, "num_classes": MANY, "clip": 5.0, "clip_over": "backbone"}
    options["schedule"] = optax.constant_schedule(0.1)
    step = make_step(apply, ArcFace(), made, **options, average_decay=0.99)
    backbone = {"params": {"kernel": jnp.ones((3, LONG))}}
    sizes = {"num_classes": MANY, "embedding_size": LONG, "head": head, "average": True}
    make = functools.partial(initial_state, backbone, ArcFace(), made, **sizes)
    state = jax.eval_shape(make, KEY)
    batch = jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    program = jax.jit(step, donate_argnums=0).lower(state, KEY, *batch)
    return program, [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]


PAIRS = [
    *((head, "sgd") for head in HEADS),
    *(("dense", optimiser) for optimiser in OPTIMISERS[1:]),
]


@pytest.mark.parametrize(("head", "optimiser"), PAIRS)
def test_every_array_of_the_state_is_given_to_its_successor(head, optimiser):
    """Parameters, momentum, class weights, averages and counts: what a step returns of them lies
    where they lay.
    """
    program, sizes = donated(HEADS[head], optimiser)
    assert program.as_text().count("tf.aliasing_output") == len(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "optimiser"), PAIRS)
def test_beyond_the_state_a_step_keeps_what_it_decides_on(head, optimiser):
    """A fused head keeps no second copy of its class weights or their momentum. Otherwise, on a
    CPU, the gradient is stored, and what the optimiser makes of it, one array of it in the
    gradient's place, until it is known that all is finite; lamb stores its update as well. The
    rest, chunks and a dense head's [N, C], is small here.
    """
    program, sizes = donated(HEADS[head], optimiser)
    plan = program.compile().memory_analysis()
    assert plan.alias_size_in_bytes >= sum(sizes)
    slots = {"adamw": 2, "lamb": 3}.get(optimiser, 1)
    stored = 0 if HEADS[head].update == "fused" else 1 + slots
    assert plan.temp_size_in_bytes < (stored + 0.5) * WEIGHTS


# Devices
# ----------------------------------------------------------------------------------------

ON_DEVICES = """
import dataclasses, sys
import jax
devices = int(sys.argv[1])
jax.config.update("jax_num_cpu_devices", devices)
from arcface_jax.models.iresnet import IResNet
from arcface_jax.training.abstract import trace_step
from arcface_jax.training.config import Config, DataConfig, HeadConfig, ModelConfig, RunConfig
from arcface_jax.training.program import create_program

config = Config(
    data=DataConfig(image_size=16),
    model=ModelConfig(embedding_size=24),
    head=HeadConfig("sharded", chunk=256, update="fused", precision="bfloat16"),
    run=RunConfig(batch_size=8 * devices),
)
program = create_program(config, 20_011)
program = dataclasses.replace(program, backbone=IResNet((1,), 24, 4, dtype="bfloat16"))
print(trace_step(program).lower().compile().as_text())
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [8, 64, 512])
def test_gradients_are_summed_layer_by_layer_on_any_number_of_devices(devices):
    """In a process of its own, with so many simulated devices. The CPU's compiler sends all
    gradients together at the end; that is left out here, for others do it by size, as they come.
    What a backend then overlaps cannot be seen on a CPU; that it may, can: the gradient of each
    kernel is summed on its own, before the convolutions of the layers in front of it.
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_disable_hlo_passes=cpu-all-reduce-combiner"}
    done = run([sys.executable, "-c", ON_DEVICES, devices], seconds=900, env=environment)
    assert done.returncode == 0, done.stderr
    sent = collectives(done.stdout)
    rows = -(-20_011 // devices)
    extents = {extent for _, shapes in sent for shape in shapes for extent in shape}
    assert extents.isdisjoint({20_011, rows, rows * devices})
    gathered = collective_bytes(done.stdout)["all-gather"]
    assert gathered == 8 * devices * (24 * 4 + 4 + 4 * 4)  # embeddings, labels, four sums
    kernels = [shapes[0] for kind, shapes in sent if kind == "all-reduce" and len(shapes[0]) > 1]
    assert sorted(kernels[0]) == [24, 256]  # the last layer's is the first to be known
    assert sorted(kernels[1:4]) == [(1, 1, 4, 4), (3, 3, 4, 4), (3, 3, 4, 4)]
    assert kernels[4:] == [(3, 3, 3, 4)]
    text = done.stdout[done.stdout.index("jvp(IResNet)/conv1") :]
    convolutions = [match.start() for match in re.finditer(r" convolution\(", text)]
    first = re.search(r"f32\[(256,24|24,256)\]\S* all-reduce\(", text).start()
    assert sum(place > first for place in convolutions) >= 6
