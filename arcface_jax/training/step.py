"""One optimiser step: for one device, for a mesh of devices under jit, and under pmap."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from arcface_jax.data.augment import Augmentation, augment, example_keys
from arcface_jax.logits import row_norms
from arcface_jax.models import cpu
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention, normalise
from arcface_jax.training.objective import Moment, Objective
from arcface_jax.training.state import TrainState, is_class_rows

DATA_AXIS = "data"
"""The mesh and pmap axis over which a batch, and the classes of a sharded head, are split."""

MIRROR_ONLY = Augmentation()
"""The paper's augmentation."""

StepFunction = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


class Batch(NamedTuple):
    """A batch or a part of it, with random numbers that do not depend on how it is split."""

    images: jax.Array
    labels: jax.Array
    example_keys: jax.Array  # [n]
    dropout_key: jax.Array
    head_key: jax.Array


class Found(NamedTuple):
    """What forward and backward pass of a batch, or a part of it, give.

    Attributes:
      gradients: of the mean loss, by {"backbone", "head"}.
      metrics: means over the examples.
      batch_stats, head_state: the new ones.
      target_cosine: of the examples that were looked at, with their own class.
    """

    gradients: dict[str, Any]
    metrics: dict[str, jax.Array]
    batch_stats: Any
    head_state: Any
    target_cosine: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """The pure step (state, uint8 images [N, H, W, 3], labels [N]) -> (state, metrics).

    To be compiled, see `arcface_jax.training.parallel`. Metrics are scalars: loss, accuracy (share
    of examples whose own class has the highest score, before the margin), theta (mean angle to the
    own class, degrees), feature_norm, gradient_norm and head_gradient_norm (of what the optimiser
    updates, before clipping), learning_rate (with a schedule), bad_in_a_row and bad_steps.

    A step whose loss, gradients or updated parameters are not finite changes nothing but the counts
    of steps (and, where a backbone's backward pass alone overflows, the rows of a head that is
    fused with its update).

    Attributes:
      backbone: Flax module of `arcface_jax.models`.
      objective: head and loss.
      optimiser: optax transformation over {"backbone", "head"}.
      seed: of the augmentation, of dropout and of the head's own draws.
      schedule: the learning rate by update, for a head that updates itself and for the metrics.
      augmentation: what happens to the images, and how often; by default the paper's mirroring.
      pixels: what the backbone expects.
      axis_name: mapped axis that the batch is split over (pmap); gradients, running statistics and
        metrics are then averaged over it. None under jit, where the compiler does this from the
        arrays' sharding.
      accumulate: parts that the batch is computed in one after the other; part i has rows i, i +
        accumulate, …. Gradients are means over the whole batch; batch statistics are each part's
        own, one after the other, and so are those of an adaptive loss.
      frozen_steps: for so many steps the backbone runs with its running statistics, which stay as
        they are, and has no gradient. (That decay does not move its parameters is up to the
        optimiser.)
      clip: the largest norm of all gradients together; longer ones are scaled down to it.
      average_decay: d of the moving averages, a ← d·a + (1 − d)·w with d = min(decay, (1 + t)/(10 +
        t)).
    """

    backbone: nn.Module
    objective: Objective
    optimiser: optax.GradientTransformation
    seed: int
    schedule: optax.Schedule | None = None
    augmentation: Augmentation = MIRROR_ONLY
    pixels: PixelConvention = ARCFACE_TORCH
    axis_name: str | None = None
    accumulate: int = 1
    frozen_steps: int = 0
    clip: float | None = None
    average_decay: float = 0.0

    def __call__(
        self, state: TrainState, images: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes the step."""
        found = self.forward_and_backward(state, images, labels)
        metrics = found.metrics | self._norms(found.gradients)
        gradients = found.gradients
        if self.clip is not None:
            shrink = jnp.minimum(1.0, self.clip / jnp.maximum(metrics["gradient_norm"], 1e-30))
            gradients = jax.tree.map(lambda leaf: leaf * shrink, gradients)
        updates, optimiser_state = self.optimiser.update(
            gradients, state.optimiser_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        new = dataclasses.replace(
            state,
            params=params,
            batch_stats=found.batch_stats,
            optimiser_state=optimiser_state,
            head_state=found.head_state,
            average=self._average(
                state, {"params": params["backbone"], "batch_stats": found.batch_stats}
            ),
        )
        good = (
            jnp.isfinite(metrics["loss"])
            & jnp.isfinite(metrics["gradient_norm"])
            & self._all_finite(params)
        )
        bad_steps = jnp.stack(
            [jnp.where(good, 0, state.bad_steps[0] + 1), state.bad_steps[1] + ~good]
        )
        new = jax.tree_util.tree_map_with_path(
            # A fused head has seen to its rows itself; to choose here would copy them.
            lambda path, after, before: (
                after if _is_fused(path) else jnp.where(good, after, before)
            ),
            new,
            state,
        )
        metrics |= {"bad_in_a_row": bad_steps[0], "bad_steps": bad_steps[1]}
        if self.schedule is not None:
            metrics["learning_rate"] = self._rate(state)
        return dataclasses.replace(new, step=state.step + 1, bad_steps=bad_steps), metrics

    def forward_and_backward(
        self, state: TrainState, images: jax.Array, labels: jax.Array
    ) -> Found:
        """Means over the whole batch, over all devices: gradients, metrics; and the new
        statistics.
        """
        batch = self.with_keys(state.step, images, labels)
        found = self._part(state, batch) if self.accumulate == 1 else self._parts(state, batch)
        if self.axis_name is None:
            return found

        def mean(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            if self.objective.splits_classes and is_class_rows(
                path, leaf
            ):  # whole already, of the sum over devices
                return leaf / jax.lax.axis_size(self.axis_name)
            return jax.lax.pmean(leaf, self.axis_name)

        metrics, batch_stats = jax.lax.pmean((found.metrics, found.batch_stats), self.axis_name)
        gradients = jax.tree_util.tree_map_with_path(mean, found.gradients)
        return found._replace(gradients=gradients, metrics=metrics, batch_stats=batch_stats)

    def embed(
        self,
        params: Any,
        batch_stats: Any,
        updates: jax.Array,
        inputs: jax.Array,
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """(embeddings, new batch statistics) of normalised images, after so many updates of the
        parameters.
        """

        def training(params: Any) -> tuple[jax.Array, Any]:
            variables, random = (
                {"params": params, "batch_stats": batch_stats},
                {"dropout": dropout_key},
            )
            with cpu.training_layers():
                embeddings, updates = self.backbone.apply(
                    variables, inputs, train=True, mutable=["batch_stats"], rngs=random
                )
            return embeddings, updates.get("batch_stats", {})

        def frozen(params: Any) -> tuple[jax.Array, Any]:
            # No gradient, so that none is computed: it would be thrown away.
            variables = {"params": jax.lax.stop_gradient(params), "batch_stats": batch_stats}
            embeddings: jax.Array = self.backbone.apply(variables, inputs, train=False)  # type: ignore[assignment]
            return embeddings, batch_stats

        if self.frozen_steps == 0:
            return training(params)
        return jax.lax.cond(updates < self.frozen_steps, frozen, training, params)

    def inputs(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Augmented and normalised."""
        return normalise(augment(images, keys, self.augmentation), self.pixels)

    def with_keys(self, step: jax.Array, images: jax.Array, labels: jax.Array) -> Batch:
        """This device's batch with the random numbers of a step."""
        augment_key, dropout_key = jax.random.split(jax.random.key(self.seed))
        dropout_key = jax.random.fold_in(dropout_key, step)
        head_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), step), 1)
        rows = images.shape[0]
        if self.axis_name is None:
            return Batch(
                images, labels, example_keys(augment_key, step, rows), dropout_key, head_key
            )
        # The keys of the global batch's rows, so that an example fares the same however the batch
        # is split.
        shard, shards = jax.lax.axis_index(self.axis_name), jax.lax.axis_size(self.axis_name)
        keys = jax.lax.dynamic_slice_in_dim(
            example_keys(augment_key, step, rows * shards), shard * rows, rows
        )
        return Batch(images, labels, keys, jax.random.fold_in(dropout_key, shard), head_key)

    def _part(self, state: TrainState, batch: Batch) -> Found:
        inputs = self.inputs(batch.images, batch.example_keys)
        embeddings, pull_back, batch_stats = jax.vjp(
            lambda params: self.embed(
                params, state.batch_stats, state.updates, inputs, batch.dropout_key
            ),
            state.params["backbone"],
            has_aux=True,
        )
        outcome, of_head = self.objective.gradients(
            state.params["head"],
            state.head_state,
            embeddings,
            batch.labels,
            Moment(state.step, batch.head_key, self._rate(state)),
            axis_name=self.axis_name,
        )
        (of_backbone,) = pull_back(of_head.embeddings.astype(embeddings.dtype))
        angles = jnp.arccos(jnp.clip(outcome.target_cosine, -1.0, 1.0))
        metrics = {
            "loss": jnp.mean(outcome.loss),
            "accuracy": jnp.mean(outcome.hits),
            "theta": jnp.rad2deg(jnp.mean(angles)),
            "feature_norm": jnp.mean(row_norms(embeddings)),
        }
        gradients = {"backbone": of_backbone, "head": of_head.params}
        return Found(gradients, metrics, batch_stats, outcome.state, outcome.target_cosine)

    def _rate(self, state: TrainState) -> jax.Array:
        """The learning rate of the update that follows; 0 without a schedule."""
        return jnp.asarray(
            0.0 if self.schedule is None else self.schedule(state.updates), jnp.float32
        )

    def _parts(self, state: TrainState, batch: Batch) -> Found:
        def split(rows: jax.Array) -> jax.Array:
            return jnp.swapaxes(rows.reshape(-1, self.accumulate, *rows.shape[1:]), 0, 1)

        def part(batch_stats: Any, head_state: Any, number: jax.Array) -> Found:
            images, labels, keys = (rows[number] for rows in parts)
            own = (jax.random.fold_in(key, number) for key in (batch.dropout_key, batch.head_key))
            before = dataclasses.replace(state, batch_stats=batch_stats, head_state=head_state)
            return self._part(before, Batch(images, labels, keys, *own))

        def add(sums: Found, number: jax.Array) -> tuple[Found, jax.Array]:
            new = part(sums.batch_stats, sums.head_state, number)
            added = jax.tree.map(
                jnp.add, (sums.gradients, sums.metrics), (new.gradients, new.metrics)
            )
            return sums._replace(
                gradients=added[0],
                metrics=added[1],
                batch_stats=new.batch_stats,
                head_state=new.head_state,
            ), new.target_cosine

        parts = tuple(map(split, (batch.images, batch.labels, batch.example_keys)))
        shapes = jax.eval_shape(part, state.batch_stats, state.head_state, jnp.zeros((), jnp.int32))
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes.gradients, shapes.metrics)
        )
        sums = Found(zeros[0], zeros[1], state.batch_stats, state.head_state, jnp.zeros(()))
        sums, cosines = jax.lax.scan(add, sums, jnp.arange(self.accumulate))
        means = jax.tree.map(lambda leaf: leaf / self.accumulate, (sums.gradients, sums.metrics))
        return sums._replace(gradients=means[0], metrics=means[1], target_cosine=cosines)

    def _norms(self, gradients: dict[str, Any]) -> dict[str, jax.Array]:
        """Norms of the gradients; class rows that are split over a mapped axis are summed over
        it.
        """

        def square(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            square = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
            split = (
                self.axis_name is not None
                and self.objective.splits_classes
                and is_class_rows(path, leaf)
            )
            return jax.lax.psum(square, self.axis_name) if split else square

        squares = jax.tree_util.tree_map_with_path(square, gradients)
        head = sum(jax.tree.leaves(squares["head"]), jnp.zeros(()))
        everything = sum(jax.tree.leaves(squares["backbone"]), head)
        return {"gradient_norm": jnp.sqrt(everything), "head_gradient_norm": jnp.sqrt(head)}

    def _all_finite(self, params: Any) -> jax.Array:
        """Whether an update left all parameters finite, on every device."""
        finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)])
        if self.axis_name is None:
            return jnp.all(finite)
        return jax.lax.pmin(jnp.all(finite).astype(jnp.int32), self.axis_name) > 0

    def _average(self, state: TrainState, latest: dict[str, Any]) -> Any:
        if not state.average:
            return state.average
        decay = jnp.minimum(self.average_decay, (1.0 + state.step) / (10.0 + state.step))
        return jax.tree.map(
            lambda old, new: decay * old + (1.0 - decay) * new, state.average, latest
        )


def _is_fused(path: tuple[Any, ...]) -> bool:
    return [getattr(key, "name", getattr(key, "key", None)) for key in path[:2]] == [
        "head_state",
        "rows",
    ]
