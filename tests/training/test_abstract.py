"""Costs from shapes, against what XLA plans for the same step and against counts by hand."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.heads.traffic import collective_bytes, collectives
from arcface_jax.losses import Triplet
from arcface_jax.models.iresnet import IResNet
from arcface_jax.training.abstract import (
    abstract_program,
    abstract_state,
    cost,
    forward_operations,
    kept_activations,
    relaying,
    state_memory,
    trace_step,
)
from arcface_jax.training.config import (
    Config,
    DataConfig,
    HeadConfig,
    ModelConfig,
    RunConfig,
)
from arcface_jax.training.program import create_program

CLASSES, DIM, BATCH = 1003, 32, 32
two_blocks = functools.partial(IResNet, (1, 1))
SMALL = Config(
    data=DataConfig(image_size=32),
    model=ModelConfig(name=f"{__name__}:two_blocks", width=16, embedding_size=DIM),
    run=RunConfig(batch_size=BATCH),
)


def changed(**sections):
    return dataclasses.replace(
        SMALL,
        **{
            name: dataclasses.replace(getattr(SMALL, name), **values)
            for name, values in sections.items()
        },
    )


class OneLayer(nn.Module):
    """One dense layer on the pixels."""

    features: int

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.features, use_bias=False)(images.reshape(images.shape[0], -1))


class OneConvolution(nn.Module):
    """One 3×3 convolution to four channels."""

    padding: str

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Conv(4, (3, 3), padding=self.padding, use_bias=False)(images)


def test_a_layer_is_counted_by_hand():
    assert forward_operations(OneLayer(5), 16) == 2 * (16 * 16 * 3) * 5
    assert forward_operations(OneConvolution("VALID"), 16) == 2 * 14 * 14 * 9 * 3 * 4
    # SAME: along each side 14 pixels have three taps that are not padding, and two have two.
    assert forward_operations(OneConvolution("SAME"), 16) == 2 * (14 * 3 + 2 * 2) ** 2 * 3 * 4
    # The gradient of the kernel needs the input and nothing else.
    assert kept_activations(OneLayer(5), 16) == 16 * 16 * 3 * 4


class Tiny(nn.Module):
    """A convolution, a normalisation and a dense layer: quick to compile."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), 2)(images))
        return nn.Dense(DIM)(x.reshape(x.shape[0], -1))


def program_params(program):
    return jax.eval_shape(program.make_state).params["backbone"]


@pytest.mark.parametrize(("devices", "kind"), [(1, "dense"), (8, "sharded")])
def test_what_is_stored_is_to_the_byte_what_a_compiled_step_takes(devices, kind):
    config = changed(head={"kind": kind}, run={"devices": devices})
    program = create_program(config, CLASSES)
    program = dataclasses.replace(program, backbone=Tiny())
    compiled = trace_step(program).lower().compile()
    plan = compiled.memory_analysis()
    counted = state_memory(program, devices)
    images_and_labels = BATCH // devices * (32 * 32 * 3 + 4)
    # XLA leaves out scalars that a step does not read, or aligns them.
    assert abs(plan.argument_size_in_bytes - counted.state - images_and_labels) <= 64
    rows = math.ceil(CLASSES / devices)
    assert counted.class_rows == 2 * rows * DIM * 4
    sent = collectives(compiled.as_text())
    assert bool(sent) == (devices > 1)
    extents = {extent for _, shapes in sent for shape in shapes for extent in shape}
    assert extents.isdisjoint({CLASSES, rows, devices * rows})
    # The gradient of every parameter of the backbone is summed over the devices, and no other: of
    # class rows, which are not the same on any two, none.
    gradients = sum(leaf.size for leaf in jax.tree.leaves(program_params(program)))
    reduced = collective_bytes(compiled.as_text())["all-reduce"]
    assert 4 * gradients <= reduced <= 1.2 * 4 * gradients or devices == 1


def test_going_on_with_other_devices_reads_each_row_once():
    """1003 classes: eight devices have 126 rows each, five of them with one of padding; three have
    335, and five 201.
    """
    row = 2 * DIM * 4  # weights and momentum
    program = abstract_program(changed(head={"kind": "sharded"}), CLASSES)
    fewer, more = cost(program.config, CLASSES, (8, 3, 5)).relaying
    assert (fewer.saved, fewer.devices, more.saved, more.devices) == (8, 3, 3, 5)
    assert (fewer.at_a_time, more.at_a_time) == (126 * row, 335 * row)
    assert 335 * row <= fewer.read <= (334 + 5) * row
    assert 201 * row <= more.read <= (201 + 2) * row
    assert relaying(abstract_program(SMALL, CLASSES), 8, 3) is None


@pytest.mark.slow
def test_the_estimate_is_near_the_plan_of_the_compiler():
    config = changed(run={"devices": 1})
    counted = cost(config, CLASSES, (1,)).memory[1]
    plan = trace_step(create_program(config, CLASSES)).lower().compile().memory_analysis()
    working = counted.gradients + counted.activations + counted.head
    assert working == pytest.approx(plan.temp_size_in_bytes, rel=0.25)


def test_memory_by_devices():
    found = cost(changed(head={"kind": "sharded"}), CLASSES, (1, 8, 64))
    one, eight, many = (found.memory[count] for count in (1, 8, 64))
    assert one.backbone == eight.backbone == many.backbone
    assert [memory.class_rows for memory in (one, eight, many)] == [
        2 * rows * DIM * 4 for rows in (CLASSES, 126, 16)
    ]  # 1003 = 8·125 + 3 = 64·15 + 43
    assert one.activations == 8 * eight.activations
    assert (
        many.activations == eight.activations // 4
    )  # 32 images on 64 devices are one on each, not half of one
    assert one.gradients - eight.gradients == (CLASSES - 126) * DIM * 4
    assert eight.total == eight.state + eight.gradients + eight.activations + eight.head
    dense = cost(SMALL, CLASSES, (8,)).memory[8]
    assert dense.class_rows == one.class_rows
    assert dense.head < cost(SMALL, CLASSES, (1,)).memory[1].head


def test_heads():
    fused = cost(
        changed(head={"kind": "chunked", "update": "fused", "dtype": "bfloat16"}), CLASSES, (1,)
    )
    dense = cost(SMALL, CLASSES, (1,))
    weights = CLASSES * DIM
    assert fused.class_weights == dense.class_weights == weights
    assert dense.memory[1].class_rows == 2 * fused.memory[1].class_rows == 8 * weights
    assert dense.memory[1].gradients - fused.memory[1].gradients == 4 * weights
    centres = cost(changed(loss={"sub_centers": 3}), CLASSES, (1,))
    assert centres.class_weights == 3 * weights
    triplet = cost(
        dataclasses.replace(SMALL, loss=Triplet(), head=HeadConfig()),
        CLASSES,
        (1,),
    )
    assert triplet.class_weights == triplet.memory[1].class_rows == triplet.memory[1].head == 0
    backbone = 3 * BATCH * dense.forward_operations
    assert triplet.step_operations == backbone
    # The planner's three products of the dense head.
    assert dense.step_operations - backbone == 3 * 2 * BATCH * CLASSES * DIM
    sampled = cost(changed(head={"kind": "sharded", "sample_rate": 0.1}), CLASSES, (1,))
    assert sampled.step_operations - backbone == 4 * 2 * BATCH * 100 * DIM


def test_parts_of_a_batch_take_turns():
    whole, parts = (cost(changed(run={"accumulate": parts}), CLASSES, (2,)) for parts in (1, 4))
    assert parts.memory[2].activations == whole.memory[2].activations // 4
    assert parts.memory[2].gradients == 2 * whole.memory[2].gradients
    assert parts.step_operations == whole.step_operations


def test_an_average_is_stored():
    without, with_average = (
        state_memory(abstract_program(changed(optimiser={"ema": ema}), CLASSES), 1)
        for ema in (0.0, 0.99)
    )
    assert with_average.backbone == pytest.approx(2 * without.backbone, abs=64)


def test_rematerialisation_keeps_less_and_computes_more():
    plain, again = (cost(changed(model={"remat": remat}), CLASSES, (1,)) for remat in (False, True))
    assert again.memory[1].activations < 0.7 * plain.memory[1].activations
    assert again.step_operations - plain.step_operations == BATCH * plain.forward_operations


def test_the_state_of_the_lowered_step_is_the_abstract_one():
    program = create_program(changed(head={"kind": "sharded"}), CLASSES)
    abstract = abstract_state(
        abstract_program(program.config, CLASSES), len(program.placement.devices)
    )
    state, metrics = trace_step(program).lower().out_info
    shapes = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (state, abstract)
    ]
    assert shapes[0] == shapes[1]
    assert {metric.shape for metric in metrics.values()} == {()}


def test_bad_input_is_refused():
    program = abstract_program(SMALL, CLASSES)
    with pytest.raises(InputError, match="devices"):
        state_memory(program, 0)
    with pytest.raises(InputError, match=r"run\.parallel pmap"):
        trace_step(create_program(changed(run={"parallel": "pmap"}), CLASSES))
    with pytest.raises(InputError, match=r"optimiser\.warmup"):
        cost(changed(optimiser={"warmup": 2.0}), CLASSES)
