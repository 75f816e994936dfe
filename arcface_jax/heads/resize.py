"""A trained head with other identities: added, dropped, merged, or split over another number of
devices.

These run between steps, outside jit, on a head whose classes are all in one array (`unshard_head`
gathers shards). What renumbers the classes also gives the new number of each old one, −1 where it
is gone: new_labels = numbers[labels].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_floating, check_labels
from arcface_jax.cosine import head_dtype, normalise_rows, row_norms
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import load, store
from arcface_jax.heads.fused import HeadState, RowSgd
from arcface_jax.heads.shards import shard_classes, unshard_classes


def class_means(embeddings: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """The mean direction of each class's embeddings, of length 1: where the class weight of a new
    identity starts.

    Args:
      embeddings: [N, D].
      labels: [N] integers in [0, num_classes), or −1 for a row to ignore.
      num_classes: how many identities.

    Returns: [num_classes, D].

    Raises:
      InputError: for a wrong shape, dtype or label, or an identity without a usable embedding.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], num_classes)
    units = normalise_rows(embeddings.astype(head_dtype(embeddings)))
    place = jnp.where(labels < 0, num_classes, labels)
    sums = (
        jnp.zeros((num_classes, embeddings.shape[1]), units.dtype).at[place].add(units, mode="drop")
    )
    means = normalise_rows(sums)
    lost = np.flatnonzero(~np.asarray(jnp.any(means != 0.0, axis=1)))
    if lost.size:
        raise InputError(
            f"identity {lost[0]} has no embedding with a direction; give every new identity one or "
            "more"
        )
    return means


def add_classes(state: HeadState, optimiser: RowSgd, directions: jax.Array) -> HeadState:
    """Appends identities, which get the numbers C, C + 1, ….

    A new row points in its direction and is as long as the median of the old ones, so that it turns
    as fast as they do. Its slots are a new head's. With K sub-centres all K start there, the others
    than the first moved by a hundredth of their length (in a fixed way), so that they can part.

    Args:
      state: of C classes.
      optimiser: the one in use.
      directions: [new, D], from `class_means` or anything else of any length.

    Returns: the state of C + new classes.

    Raises:
      InputError: for a wrong shape or dtype.
    """
    directions = check_floating("directions", directions, 2)
    if directions.shape[1] != state.weights.shape[-1]:
        raise InputError(
            f"directions has shape {directions.shape}; pass [new, {state.weights.shape[-1]}]"
        )
    old = load(state.weights)
    rows = normalise_rows(directions.astype(head_dtype(old)))
    if old.ndim == 3:
        noise = normalise_rows(
            jax.random.normal(jax.random.key(0), (rows.shape[0], *old.shape[1:]), rows.dtype)
        )
        rows = normalise_rows(rows[:, None] + 0.01 * noise.at[:, 0].set(0.0))
    length = jnp.median(row_norms(old))
    new = store(rows * jnp.where(length > 0.0, length, 1.0), state.weights.dtype)
    join = lambda a, b: jnp.concatenate([a, b])  # noqa: E731
    return HeadState(
        join(state.weights, new),
        jax.tree.map(join, state.slots, optimiser.init(new)),
        jnp.asarray(state.step),
    )


def _check_classes(name: str, classes: Sequence[int], num_classes: int) -> None:
    numbers = list(classes)
    for number in numbers:
        if not 0 <= number < num_classes:
            raise InputError(
                f"{name} names class {number}; pass numbers from 0 to {num_classes - 1}"
            )
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise InputError(f"{name} names class {twice} twice")


def drop_classes(state: HeadState, classes: Sequence[int]) -> tuple[HeadState, np.ndarray]:
    """Takes identities out; the others keep their order, weights and slots.

    Args:
      state: of C classes.
      classes: the numbers of those to drop; not all.

    Returns: (the state, new numbers [C]).

    Raises:
      InputError: for a number that is no class, or given twice, or if none would be left.
    """
    num_classes = state.weights.shape[0]
    _check_classes("classes", classes, num_classes)
    stays = np.ones(num_classes, bool)
    stays[list(classes)] = False
    if not stays.any():
        raise InputError(
            f"classes names all of {number_of(num_classes, 'class')}; leave at least one"
        )
    numbers = np.where(stays, np.cumsum(stays) - 1, -1)
    kept = np.flatnonzero(stays)
    weights, slots = jax.tree.map(lambda array: array[kept], (state.weights, state.slots))
    return HeadState(weights, slots, state.step), numbers


def merge_classes(
    state: HeadState, groups: Sequence[Sequence[int]]
) -> tuple[HeadState, np.ndarray]:
    """Makes one identity of each group: identities found to be the same person.

    The first of a group takes the mean direction and the mean length of their class weights, and
    the mean of their slots; the others go. With sub-centres, whose order means nothing, the first
    keeps its own weights and slots.

    Args:
      state: of C classes.
      groups: class numbers, two or more in each, none in two.

    Returns: (the state, new numbers [C], in which all of a group have the first's).

    Raises:
      InputError: for a group of fewer than two, or a number that is no class or given twice.
    """
    num_classes = state.weights.shape[0]
    _check_classes("groups", [number for group in groups for number in group], num_classes)
    weights, slots = state.weights, state.slots
    for group in groups:
        if len(group) < 2:
            raise InputError(f"groups has {list(group)}; pass two classes or more in each")
        if weights.ndim == 2:
            members = np.asarray(group)
            rows = load(weights[members]).astype(head_dtype(load(weights[:0])))
            mean = normalise_rows(jnp.sum(normalise_rows(rows), axis=0)) * jnp.mean(row_norms(rows))
            weights = weights.at[group[0]].set(store(mean, weights.dtype))
            slots = jax.tree.map(
                lambda slot, m=members: slot.at[m[0]].set(_mean_of(slot, m)), slots
            )
    state, numbers = drop_classes(
        HeadState(weights, slots, state.step), [number for group in groups for number in group[1:]]
    )
    for group in groups:
        numbers[list(group[1:])] = numbers[group[0]]
    return state, numbers


def _mean_of(slot: jax.Array, members: np.ndarray) -> jax.Array:
    values = load(slot[members])
    return store(jnp.mean(values.astype(head_dtype(values)), axis=0), slot.dtype)


def shard_head(state: HeadState, shards: int) -> HeadState:
    """Splits a head over devices: each array [C, …] -> [shards, ⌈C/shards⌉, …]; see
    `shard_classes`.
    """
    weights, slots = jax.tree.map(
        lambda array: shard_classes(array, shards), (state.weights, state.slots)
    )
    return HeadState(weights, slots, state.step)


def unshard_head(state: HeadState, num_classes: int) -> HeadState:
    """The inverse of `shard_head`. Together they put a head on another number of devices."""
    weights, slots = jax.tree.map(
        lambda array: unshard_classes(array, num_classes), (state.weights, state.slots)
    )
    return HeadState(weights, slots, state.step)
