"""Loss, gradient by embeddings and the update of the class weights fused, chunk by chunk.

A class-weight gradient is as large as the class weights. Here each chunk's is formed, used and
dropped: two passes over the classes, the first for the partition function, the second for slopes
and updates, in place on donated buffers.

How it stays in place under XLA: each chunk of an optimiser's slots is written and then read again,
behind a barrier, to update the weights. Otherwise the two writes are fused with each other's reads
and both arrays are copied, in every turn of the loop.
`compiled.memory_analysis().temp_size_in_bytes` tells.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_floating
from arcface_jax.cosine import has_class
from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import (
    DEFAULT_CHUNK,
    load,
    read_rows,
    split_classes,
    store,
    vary_over,
    varying_axes,
    write_rows,
)
from arcface_jax.heads.class_sums import (
    ClassSums,
    Eta,
    Slopes,
    SumOptions,
    class_sums,
    eta_slopes,
    masks,
    pull_back_chunk,
    view_chunk,
)
from arcface_jax.heads.sampling import ClassSample, places_in_sample, put_rows, take_rows
from arcface_jax.heads.shards import AxisName, ClassAxis, class_axis
from arcface_jax.heads.softmax import (
    SharedBatch,
    bind_eta,
    compute_dtype,
    losses_from_sums,
    reduce_sums,
    share_batch,
    sum_options,
)
from arcface_jax.margins import ARCFACE, Psi

DTYPES = ("float32", "float64", "bfloat16")

Slots = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class RowSgd:
    """SGD with momentum and weight decay: v ← μ·v + g + λ·w, w ← w − η·v.

    The same as optax.chain(optax.add_decayed_weights(λ), optax.sgd(η, μ)). An update of a row needs
    nothing but that row, so that a head can apply it chunk by chunk.

    Attributes:
      momentum: μ.
      weight_decay: λ.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def init(self, weights: jax.Array) -> Slots:
        """A velocity of zero, one slot of the size of the weights."""
        return (jnp.zeros_like(weights),)


class HeadState(NamedTuple):
    """A head in training.

    Attributes:
      weights: [C, D] or [C, K, D], as `arcface_jax.heads.chunks.store` keeps them: float32, or
        bfloat16's bits as uint16.
      slots: the optimiser's arrays, a row for each class.
      step: how many steps were taken.
    """

    weights: jax.Array
    slots: Slots
    step: jax.Array

    @property
    def class_weights(self) -> jax.Array:
        """The class weights as numbers, float32 or bfloat16."""
        return load(self.weights)


class HeadStep(NamedTuple):
    """What a step gives; of the examples, all before the update.

    Attributes:
      state: the new state.
      loss: of each example, [n].
      embedding_gradients: [n, D], of the mean loss over all devices by the embeddings.
      target_cosine: cosθ_y, [n].
      hit: [n], whether no other class is as near.
    """

    state: HeadState
    loss: jax.Array
    embedding_gradients: jax.Array
    target_cosine: jax.Array
    hit: jax.Array


def init_head(
    class_weights: jax.Array, optimiser: RowSgd, *, dtype: Any = jnp.float32
) -> HeadState:
    """The state of a new head.

    Args:
      class_weights: [C, D] or [C, K, D]; on several devices, each one's shard.
      optimiser: what will make the updates.
      dtype: how weights and slots are kept: float32 or bfloat16 (float64 for tests).

    Returns: the state.

    Raises:
      InputError: for another dtype or a wrong shape.
    """
    class_weights = check_floating("class_weights", class_weights, (2, 3))
    if jnp.dtype(dtype).name not in DTYPES:
        raise InputError(f"dtype is {jnp.dtype(dtype).name}; pass one of {', '.join(DTYPES)}")
    weights = store(class_weights, jnp.dtype(dtype))
    return HeadState(weights, optimiser.init(weights), jnp.zeros((), jnp.int32))


class _Problem(NamedTuple):
    """What the update of a chunk needs besides the chunk; `slopes` None: the gradient is 0."""

    unit: jax.Array
    labels: jax.Array
    scales: jax.Array
    slopes: Slopes | None
    valid: Any
    eta: Any = None


def _update_rows(
    state: HeadState,
    problem: _Problem,
    options: SumOptions,
    optimiser: RowSgd,
    learning_rate: jax.Array,
    key: jax.Array | None,
) -> tuple[HeadState, jax.Array]:
    """Updates every chunk; also gives dL/d unit embeddings [N, D]."""
    chunks = split_classes(state.weights.shape[0], options.chunk)
    unit, dtype = problem.unit, problem.unit.dtype

    def chunk_gradient(index: Any, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        if problem.slopes is None:
            return jnp.zeros_like(unit), jnp.zeros_like(rows)
        view = view_chunk(unit, rows, options.precision)
        is_target, _, kept = masks(
            view, chunks, index, problem.labels, problem.valid, options.filter_threshold
        )
        columns = Slopes(*(each[:, None] for each in problem.slopes))
        scales = problem.scales[:, None]
        slopes = eta_slopes(problem.eta, columns, view.cosine, scales, is_target, kept)
        return pull_back_chunk(view, slopes.of_cosine, unit, rows.shape, options.precision)

    def update(done: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        weights, velocity, of_unit = carry
        index = chunks.from_last(done)
        start = chunks.start(index)
        _, fresh = chunks.classes_of(index, problem.valid)
        keys = [None] * 2 if key is None else jax.random.split(jax.random.fold_in(key, index), 2)

        def write(stored: jax.Array, new: jax.Array, old: jax.Array, key: Any) -> jax.Array:
            kept = jnp.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            return write_rows(stored, kept, start, key)

        def read(stored: jax.Array) -> jax.Array:
            return read_rows(stored, start, chunks.size, dtype)

        rows, old = read(weights), read(velocity)
        of_unit_here, gradient = chunk_gradient(index, rows)
        new = optimiser.momentum * old + gradient + optimiser.weight_decay * rows
        velocity = write(velocity, new, old, keys[1])
        velocity, weights = jax.lax.optimization_barrier((velocity, weights))
        rows = read(weights)
        moved = rows - learning_rate * read(velocity)
        return write(weights, moved, rows, keys[0]), velocity, of_unit + of_unit_here

    of_unit = vary_over(varying_axes(unit, state.weights), jnp.zeros_like(unit))
    weights, velocity, of_unit = jax.lax.fori_loop(
        0, chunks.count, update, (state.weights, *state.slots, of_unit)
    )
    return HeadState(weights, (velocity,), state.step + 1), of_unit


def _loss_and_slopes(
    sums: ClassSums,
    batch: SharedBatch,
    axis: ClassAxis,
    psi: Psi,
    smoothing: float,
    importance: jax.Array,
) -> tuple[jax.Array, Slopes]:
    """This device's losses [n], and the slopes of the mean loss for all N examples."""
    valid = has_class(batch.labels, axis.num_classes)

    def loss_of(target: jax.Array, partition: jax.Array, cosine_sum: jax.Array) -> jax.Array:
        whole = sums._replace(target=target, log_partition=partition, cosine_sum=cosine_sum)
        return importance * losses_from_sums(whole, valid, psi, batch.scale, smoothing)

    loss, pull_back = jax.vjp(loss_of, *sums[:3])
    mean = jnp.full(loss.shape, 1.0 / (loss.size * axis.size), loss.dtype)
    of_target, of_partition, of_cosine_sum = pull_back(vary_over(varying_axes(loss), mean))
    finite = jnp.where(jnp.isfinite(sums.log_partition), sums.log_partition, 0.0)
    slopes = jnp.stack([of_target, batch.scale * of_partition, finite, of_cosine_sum], axis=1)
    return loss, Slopes(*axis.gather(slopes).T)


def fused_head_step(
    state: HeadState,
    embeddings: jax.Array,
    labels: jax.Array,
    learning_rate: Any,
    *,
    optimiser: RowSgd = RowSgd(),
    psi: Psi = ARCFACE,
    eta: Eta | None = None,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
    chunk: int = DEFAULT_CHUNK,
    precision: str = "highest",
    rounding_key: jax.Array | None = None,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    sample: ClassSample | None = None,
    update_unsampled: bool = True,
    example_weights: jax.Array | None = None,
) -> HeadStep:
    """Margin softmax, its gradient by the embeddings, and one optimiser step of the class weights,
    without dL/dW.

    Compile it with the state donated, by itself or within a larger step, and it works in place:
    besides the state and O(N·(chunk + D)) nothing is held.

        step = jax.jit(functools.partial(fused_head_step, optimiser=RowSgd()), donate_argnums=0)
        state, loss, embedding_gradients, _, _ = step(state, embeddings, labels, learning_rate)

    The backbone's gradient follows from `embedding_gradients` by its `jax.vjp`. In float32 the
    result is the plain optax step's to rounding; everything is computed in float32 whatever the
    storage.

    With a `sample` it is Partial FC: the softmax runs over the sample. `update_unsampled` says what
    happens to the other rows: updated with a gradient of zero, so that momentum and weight decay go
    on (V2, and any plain optimiser), or left alone with their velocity (V1).

    Args:
      state: from `init_head` or the last step.
      embeddings: [N, D]; on several devices, this one's.
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      learning_rate: η, a number or a traced scalar.
      optimiser: what makes the update; static.
      psi: the margin; where it depends on the embeddings, `embedding_gradients` lack what comes
        through it, and so for the scale and eta.
      eta: the logits over s of the wrong classes; see `margin_softmax_loss`.
      scale: s > 0; a number, a scalar array or [N].
      label_smoothing: ε in [0, 1].
      filter_threshold: leave wrong classes whose cosine is above this out of the softmax.
      chunk: the most classes at a time.
      precision: of the matrix products; see `arcface_jax.cosine.product`.
      rounding_key: round bfloat16 storage at random with this key, new at every step; None rounds
        to nearest. In float32 it does nothing.
      axis_name: the mapped axis that classes and examples are split over, if any.
      num_classes: C of all devices together; needed with `axis_name`.
      sample: from `sample_classes` or `hard_classes`.
      update_unsampled: V2 or V1.
      example_weights: [N], multiply the losses; ones without.

    Returns: the new state, losses, gradients of their mean over all devices, and what was seen.

    Raises:
      InputError: for a wrong shape, dtype, label or option.

    References:
      An et al., Partial FC, arXiv:2010.05222 (V1), arXiv:2203.15565 (V2). Gupta et al., Deep
      learning with limited numerical precision, arXiv:1502.02551, for stochastic rounding.
    """
    axis = class_axis(axis_name, num_classes, state.weights.shape[0])
    axis.check_rows(state.weights.shape[0])
    embeddings = check_floating("embeddings", embeddings, 2)
    if embeddings.shape[1] != state.weights.shape[-1]:
        raise InputError(
            f"embeddings has shape {embeddings.shape} and the head's weights {state.weights.shape}"
        )
    dtype = compute_dtype(embeddings, state.weights)
    options = sum_options(
        chunk=chunk,
        label_smoothing=label_smoothing,
        filter_threshold=filter_threshold,
        scale=scale,
        precision=precision,
        nearest_wrong=True,
    )

    def shared(embeddings: jax.Array) -> tuple[jax.Array, SharedBatch]:
        batch = share_batch(embeddings, labels, scale, axis, dtype)
        return batch.unit, batch

    unit, pull_back, batch = jax.vjp(shared, embeddings, has_aux=True)
    part, places, valid = state, batch.local_labels, axis.classes_here()
    if sample is not None:
        weights, slots = jax.tree.map(
            lambda array: take_rows(array, sample), (state.weights, state.slots)
        )
        part = HeadState(weights, slots, state.step)
        places, valid = places_in_sample(batch.local_labels, sample), sample.active

    bound = bind_eta(eta, axis, dtype)
    sums = class_sums(unit, part.weights, places, batch.all_scales, valid, options, bound)
    sums = reduce_sums(sums, batch, axis, options)
    importance = jnp.asarray(1.0 if example_weights is None else example_weights, dtype)
    if importance.shape not in ((), labels.shape):
        raise InputError(
            f"example_weights has shape {importance.shape}; pass one for each example, "
            f"{labels.shape}"
        )
    loss, slopes = _loss_and_slopes(sums, batch, axis, psi, label_smoothing, importance)

    if rounding_key is not None:
        rounding_key = jax.random.fold_in(rounding_key, axis.index())
    rate = jnp.asarray(learning_rate, dtype)
    scales = jnp.broadcast_to(batch.all_scales, (unit.shape[0],))
    problem = _Problem(unit, places, scales, slopes, valid, bound)
    part, of_unit = _update_rows(part, problem, options, optimiser, rate, rounding_key)
    if sample is not None:
        if update_unsampled:
            # Reading the gradient makes this wait for the sampled rows to have been taken; were it
            # free to go first, all of the state would be copied for them.
            here = jnp.where(jnp.isnan(of_unit[0, 0]), 0, axis.classes_here())
            idle = problem._replace(slopes=None, valid=here)
            state, _ = _update_rows(state, idle, options, optimiser, rate, rounding_key)
        whole, cut = (state.weights, state.slots), (part.weights, part.slots)
        weights, slots = jax.tree.map(lambda array, rows: put_rows(array, rows, sample), whole, cut)
        part = HeadState(weights, slots, part.step)
    (embedding_gradients,) = pull_back(of_unit)
    return HeadStep(part, loss, embedding_gradients, sums.target, sums.target > sums.nearest_wrong)
