"""One optimiser step, as a pure function of a state, a key and a batch."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from arcface_jax.cosine import head_dtype, normalise_rows, row_norms
from arcface_jax.data.augment import example_keys
from arcface_jax.heads import HeadStep, RowSgd, fused_head_step, sample_classes
from arcface_jax.heads.chunks import ACCELERATOR_CHUNK, DEFAULT_CHUNK
from arcface_jax.losses import Context, Loss, LossOutput
from arcface_jax.losses.penalties import distillation_penalty
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.state import DATA_AXIS, TrainState, class_row_specs, is_class_rows

Apply = Callable[..., tuple[jax.Array, Any]]
"""(params, batch statistics, images) -> (embeddings [n, D], new batch statistics); with a parameter
called `key` it gets a PRNG key for dropout as well.
"""

Prepare = Callable[[jax.Array, jax.Array], jax.Array]
"""(images as they come, a PRNG key for each [n]) -> what the network takes."""

StepFunction = Callable[[TrainState, jax.Array, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


class StepKeys(NamedTuple):
    """The random numbers of a step, which do not depend on how its batch is split."""

    examples: jax.Array  # [n]
    dropout: jax.Array
    loss: jax.Array


class Pass(NamedTuple):
    """What forward and backward pass of a batch, or a part of it, give.

    Attributes:
      gradients: of the mean loss, by {"backbone", "head"}.
      metrics: means over the examples.
      batch_stats: the new batch statistics.
      head_state: the new state of the loss.
      target_cosine: of the examples, with their own class.
    """

    gradients: dict[str, Any]
    metrics: dict[str, jax.Array]
    batch_stats: Any
    head_state: Any
    target_cosine: Any


def make_step(
    apply: Apply,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    clip: float | None = None,
    clip_over: Literal["all", "backbone"] = "all",
    average_decay: float = 0.0,
    **options: Any,
) -> StepFunction:
    """The pure step (state, key, images [N, …], labels [N]) -> (state, metrics), to be compiled.

        step = jax.jit(make_step(apply, ArcFace(), optax.sgd(0.1)), donate_argnums=0)
        state, metrics = step(state, key, images, labels)

    The key is the run's, the same at every step: what a step draws follows from it and state.step.
    Under `jax.jit` over a mesh the program sees the whole batch; `jax.pmap(step, axis_name="data")`
    of a step made with axis_name="data" does the same on each device's part.

    Metrics are scalars: loss, accuracy (share of examples that no other class is as near to, before
    the margin), theta (mean angle to the own class, degrees), feature_norm, gradient_norm and
    head_gradient_norm (of what the optimiser updates, before clipping), learning_rate (with a
    schedule), bad_in_a_row and bad_steps. A step whose loss, gradients or updated parameters are
    not finite changes nothing but the counts of steps (and, where a backbone's backward pass alone
    overflows, the rows of a head that is fused with its update).

    Args:
      apply: the network, any callable; see `Apply`, and `linen_apply` for a Flax module.
      loss: the loss.
      optimiser: optax transformation over {"backbone", "head"}.
      clip: the longest norm of the gradient; a longer one is scaled down to it.
      clip_over: "all", the gradients of backbone and head together, or "backbone", its own alone.
      average_decay: d of the moving averages, a ← d·a + (1 − d)·w with d = min(decay,
        (1 + t)/(10 + t)).
      **options: those that follow.
      head: how to go over the classes.
      prepare: what becomes of the images first, see `Prepare`; by default nothing.
      schedule: the learning rate by update, for a head that updates itself and for the metrics.
      num_classes: C; a sharded or sampled head needs it.
      class_counts: [C], training images of each class, for losses that ask.
      total_steps: of the run, for losses that ask.
      row_optimiser: of a head that updates itself.
      axis_name: mapped axis that the batch is split over (pmap); gradients, running statistics
        and metrics are averaged over it. None under jit, where the compiler does so.
      mesh: of the devices of a sharded head under jit.
      accumulate: parts that the batch is computed in one after the other; part i has rows i,
        i + accumulate, …. Gradients are means over the whole batch; batch statistics are each
        part's own, one after the other, and so are those of an adaptive loss.
      teacher: a trained network, of what `prepare` gives: [n, D], whose directions are learnt too.
      teacher_weight: w; the mean of w·`losses.penalties.distillation_penalty` is added to the loss,
        but not to the metric, which has the penalty without w as "distillation".
      frozen: the backbone has no gradient and keeps its statistics; `apply` should then run as it
        does in use.
    """
    forward_and_backward = make_pass(apply, loss, **options)
    axis_name, schedule = options.get("axis_name"), options.get("schedule")
    split_classes = options.get("head", HeadConfig()).kind == "sharded"

    def step(
        state: TrainState, key: jax.Array, images: Any, labels: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        found = forward_and_backward(state, key, images, labels)
        metrics = found.metrics | _norms(found.gradients, axis_name if split_classes else None)
        gradients = found.gradients
        if clip is not None and clip_over == "all":
            gradients = _shortened(gradients, metrics["gradient_norm"], clip)
        elif clip is not None:
            backbone = gradients["backbone"]
            backbone = _shortened(backbone, optax.tree.norm(backbone), clip)
            gradients = gradients | {"backbone": backbone}
        updates, optimiser_state = optimiser.update(gradients, state.optimiser_state, state.params)
        params = optax.apply_updates(state.params, updates)
        latest = {"params": params["backbone"], "batch_stats": found.batch_stats}
        new = dataclasses.replace(
            state,
            params=params,
            batch_stats=found.batch_stats,
            optimiser_state=optimiser_state,
            head_state=found.head_state,
            average=_moved(state.average, latest, state.step, average_decay),
        )
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        good &= _all_finite(params, axis_name)
        new = jax.tree_util.tree_map_with_path(
            # A fused head has seen to its rows itself; to choose here would copy them.
            lambda path, after, before: (
                after if _is_fused(path) else jnp.where(good, after, before)
            ),
            new,
            state,
        )
        bad_steps = jnp.stack(
            [jnp.where(good, 0, state.bad_steps[0] + 1), state.bad_steps[1] + ~good]
        )
        metrics |= {"bad_in_a_row": bad_steps[0], "bad_steps": bad_steps[1]}
        if schedule is not None:
            metrics["learning_rate"] = learning_rate(schedule, state)
        return dataclasses.replace(new, step=state.step + 1, bad_steps=bad_steps), metrics

    return step


def make_pass(
    apply: Apply,
    loss: Loss,
    *,
    head: HeadConfig = HeadConfig(),
    prepare: Prepare | None = None,
    schedule: optax.Schedule | None = None,
    num_classes: int | None = None,
    class_counts: Any = None,
    total_steps: int = 1,
    row_optimiser: RowSgd = RowSgd(),
    axis_name: str | None = None,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    frozen: bool = False,
    teacher: Callable[[Any], jax.Array] | None = None,
    teacher_weight: float = 1.0,
) -> Callable[[TrainState, jax.Array, Any, Any], Pass]:
    """Forward and backward pass: (state, key, images, labels) -> `Pass`; for the arguments see
    `make_step`.
    """
    takes_key = "key" in inspect.signature(apply).parameters
    split_classes = head.kind == "sharded"

    def of_part(state: TrainState, images: Any, labels: Any, keys: StepKeys) -> Pass:
        inputs = images if prepare is None else prepare(images, keys.examples)
        dropout = {"key": keys.dropout} if takes_key else {}

        def embed(params: Any) -> tuple[jax.Array, Any]:
            if frozen:  # no gradient, so that none is computed
                params = jax.lax.stop_gradient(params)
            embeddings, batch_stats = apply(params, state.batch_stats, inputs, **dropout)
            return embeddings, state.batch_stats if frozen else batch_stats

        embeddings, pull_back, batch_stats = jax.vjp(embed, state.params["backbone"], has_aux=True)

        def classify(
            params: Any, own: Any, embeddings: Any, labels: Any, context: Context, rate: Any
        ) -> Any:
            context = dataclasses.replace(context, axis_name=axis_name or (mesh and DATA_AXIS))
            return loss_and_gradients(
                loss,
                head,
                params,
                own,
                embeddings,
                labels,
                context,
                num_classes=num_classes,
                learning_rate=rate,
                optimiser=row_optimiser,
            )

        run, params = classify, state.params["head"]
        if mesh is not None:
            run = _over_mesh(classify, mesh, state.head_state, params)
        counts = None if class_counts is None else jnp.asarray(class_counts, jnp.float32)
        context = Context(
            step=state.step, key=keys.loss, class_counts=counts, total_steps=total_steps
        )
        rate = learning_rate(schedule, state)
        out, of_head, of_embeddings = run(
            params, state.head_state, embeddings, labels, context, rate
        )
        if teacher is not None:
            taught = teacher(inputs)
            apart, towards = jax.value_and_grad(
                lambda rows: jnp.mean(distillation_penalty(rows.astype(jnp.float32), taught))
            )(embeddings)
            of_embeddings = of_embeddings + teacher_weight * towards
        (of_backbone,) = pull_back(of_embeddings.astype(embeddings.dtype))
        angles = jnp.arccos(jnp.clip(out.target_cosine, -1.0, 1.0))
        metrics = {
            "loss": jnp.mean(out.loss),
            "accuracy": jnp.mean(out.hit),
            "theta": jnp.rad2deg(jnp.mean(angles)),
            "feature_norm": jnp.mean(row_norms(embeddings)),
        }
        if teacher is not None:
            metrics["distillation"] = apart
        gradients = {"backbone": of_backbone, "head": of_head}
        return Pass(gradients, metrics, batch_stats, out.state, out.target_cosine)

    def of_parts(state: TrainState, images: Any, labels: Any, keys: StepKeys) -> Pass:
        def split(rows: jax.Array) -> jax.Array:
            return jnp.swapaxes(rows.reshape(-1, accumulate, *rows.shape[1:]), 0, 1)

        parts = tuple(map(split, (images, labels, keys.examples)))

        def part(batch_stats: Any, head_state: Any, number: Any) -> Pass:
            images, labels, examples = (rows[number] for rows in parts)
            own = (jax.random.fold_in(key, number) for key in keys[1:])
            before = dataclasses.replace(state, batch_stats=batch_stats, head_state=head_state)
            return of_part(before, images, labels, StepKeys(examples, *own))

        def add(sums: Pass, number: Any) -> tuple[Pass, jax.Array]:
            new = part(sums.batch_stats, sums.head_state, number)
            gradients, metrics = jax.tree.map(jnp.add, sums[:2], new[:2])
            sums = new._replace(gradients=gradients, metrics=metrics, target_cosine=None)
            return sums, new.target_cosine

        shapes = jax.eval_shape(part, state.batch_stats, state.head_state, 0)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:2])
        sums = Pass(zeros[0], zeros[1], state.batch_stats, state.head_state, None)
        # On a CPU nothing may convolve inside a loop: there the parts stand one after the other.
        unroll = jax.default_backend() == "cpu" or 1
        sums, cosines = jax.lax.scan(add, sums, jnp.arange(accumulate), unroll=unroll)
        gradients, metrics = jax.tree.map(lambda leaf: leaf / accumulate, sums[:2])
        return sums._replace(gradients=gradients, metrics=metrics, target_cosine=cosines)

    def forward_and_backward(state: TrainState, key: jax.Array, images: Any, labels: Any) -> Pass:
        keys = step_keys(key, state.step, images.shape[0], axis_name)
        found = (of_part if accumulate == 1 else of_parts)(state, images, labels, keys)
        if axis_name is None:
            return found

        def mean(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            if split_classes and is_class_rows(path):  # whole already, of the sum over devices
                return leaf / jax.lax.axis_size(axis_name)
            return jax.lax.pmean(leaf, axis_name)

        metrics, batch_stats = jax.lax.pmean((found.metrics, found.batch_stats), axis_name)
        gradients = jax.tree_util.tree_map_with_path(mean, found.gradients)
        return found._replace(gradients=gradients, metrics=metrics, batch_stats=batch_stats)

    return forward_and_backward


def head_precision(head: HeadConfig) -> str:
    """What a head multiplies at: as it says, or else highest on a CPU, which has nothing faster,
    and bfloat16 on an accelerator: the fastest, with which a head alone trains as well.
    """
    return head.precision or ("highest" if jax.default_backend() == "cpu" else "bfloat16")


def head_chunk(head: HeadConfig) -> int:
    """The most classes that a head takes at a time."""
    default = DEFAULT_CHUNK if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK
    return default if head.chunk is None else head.chunk


def loss_and_gradients(
    loss: Any,
    head: HeadConfig,
    params: dict[str, Any],
    state: dict[str, Any],
    embeddings: jax.Array,
    labels: jax.Array,
    context: Context,
    *,
    num_classes: int | None = None,
    learning_rate: Any = 0.0,
    optimiser: RowSgd = RowSgd(),
) -> tuple[LossOutput, dict[str, Any], jax.Array]:
    """(the loss's output, gradients by its parameters, gradients by the embeddings [n, D]), of the
    mean loss of these n examples.

    With context.axis_name it runs on each device of that axis: gradients of what is replicated are
    then to be averaged over it, those of class rows that are split over it are of the sum.
    """
    context = dataclasses.replace(context, precision=head_precision(head))
    over: dict[str, Any] = {}
    if head.kind != "dense":
        tiled = {"kernel": head.kernel, "skip": head.skip}
        over = {"chunk": head_chunk(head)} if head.kernel == "xla" else tiled
    if head.kind == "sharded":
        over |= {"axis_name": context.axis_name, "num_classes": num_classes}
    key, rounding_key = jax.random.split(context.key)
    if head.sample_rate < 1.0:
        key = key if head.update == "fused" else context.key
        split: Any = {"axis_name": over.get("axis_name"), "num_classes": num_classes}
        over["sample"] = sample_classes(key, labels, rate=head.sample_rate, **split)
    if head.update == "fused":
        rounding = {"rounding_key": rounding_key if head.dtype == "bfloat16" else None}
        over |= {"update_unsampled": head.unsampled == "update", **rounding}
        return _fused(loss, state, embeddings, labels, context, learning_rate, optimiser, over)

    def mean_loss(params: Any, embeddings: jax.Array) -> tuple[jax.Array, LossOutput]:
        out = loss(params, state, embeddings, labels, context, **over)
        return jnp.mean(out.loss), out

    gradients, out = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(params, embeddings)
    return out, *gradients


def _fused(
    loss: Any,
    state: dict[str, Any],
    embeddings: jax.Array,
    labels: jax.Array,
    context: Context,
    learning_rate: Any,
    optimiser: RowSgd,
    over: dict[str, Any],
) -> tuple[LossOutput, dict[str, Any], jax.Array]:
    """The class rows are updated here; embeddings that are not finite leave them untouched."""
    rows = state["rows"]
    own_state = {name: part for name, part in state.items() if name != "rows"}
    own_state, context = loss.begin(own_state, embeddings, labels, context)
    classes = over.get("num_classes") or rows.weights.shape[0]

    def update(rows: Any) -> Any:
        return fused_head_step(
            rows,
            embeddings,
            labels,
            learning_rate,
            optimiser=optimiser,
            psi=loss.sized_psi(context, classes),
            eta=loss.eta(context),
            example_weights=loss.example_weights(context, classes),
            scale=loss.scale,
            label_smoothing=loss.label_smoothing,
            filter_threshold=loss.filter_threshold,
            precision=context.precision,
            **over,
        )

    def leave(rows: Any) -> HeadStep:
        nan = jnp.full_like(embeddings[:, 0], jnp.nan, head_dtype(embeddings))
        gradients = jnp.full_like(embeddings, jnp.nan)
        return HeadStep(rows, nan, gradients, nan, jnp.zeros_like(labels, bool))

    # Of unit length, for long ones have no finite length: their rows would be NaN, and so would all
    # classes'.
    finite = jnp.all(jnp.isfinite(normalise_rows(embeddings.astype(jnp.float32))))
    if context.axis_name is not None:
        finite = jax.lax.pmin(finite.astype(jnp.int32), context.axis_name) > 0
    step = jax.lax.cond(finite, update, leave, rows)
    # `fused_head_step` differentiates the mean over all devices; here it is this device's mean.
    shards = 1 if over.get("axis_name") is None else jax.lax.axis_size(over["axis_name"])
    out = LossOutput(step.loss, {"rows": step.state, **own_state}, step.target_cosine, step.hit)
    return out, {}, step.embedding_gradients * shards


def _over_mesh(loss_and_gradients: Any, mesh: Mesh, state: Any, params: Any) -> Any:
    """Runs it on each device of the mesh, on its classes and its part of the batch, under jit."""

    def on_device(*arguments: Any) -> Any:
        out, *gradients = loss_and_gradients(*arguments)
        # Of this device's mean loss; the mean over all is wanted.
        return out, *jax.tree.map(lambda leaf: leaf / mesh.size, gradients)

    split, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    of_params, of_state = class_row_specs({"head": params})["head"], class_row_specs(state)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(of_params, of_state, split, split, whole, whole),
        out_specs=(LossOutput(split, of_state, split, split), of_params, split),  # type: ignore[arg-type]
    )


def step_keys(key: jax.Array, step: jax.Array, rows: int, axis_name: str | None = None) -> StepKeys:
    """The keys of a step from the run's; with `axis_name`, of this device's part of the batch."""
    augment_key, dropout_key = jax.random.split(key)
    dropout_key = jax.random.fold_in(dropout_key, step)
    loss_key = jax.random.fold_in(jax.random.fold_in(key, step), 1)
    if axis_name is None:
        return StepKeys(example_keys(augment_key, step, rows), dropout_key, loss_key)
    # The keys of the whole batch's rows, so that an example fares the same however it is split.
    shard, shards = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    keys = example_keys(augment_key, step, rows * shards)
    own = jax.lax.dynamic_slice_in_dim(keys, shard * rows, rows)
    return StepKeys(own, jax.random.fold_in(dropout_key, shard), loss_key)


def learning_rate(schedule: optax.Schedule | None, state: TrainState) -> jax.Array:
    """The learning rate of the update that follows; 0 without a schedule."""
    return jnp.asarray(0.0 if schedule is None else schedule(state.updates), jnp.float32)


def _norms(gradients: dict[str, Any], split_over: str | None) -> dict[str, jax.Array]:
    """Norms of the gradients; class rows that are split over a mapped axis are summed over it."""

    def square(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        square = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        split = split_over is not None and is_class_rows(path)
        return jax.lax.psum(square, split_over) if split else square

    squares = jax.tree_util.tree_map_with_path(square, gradients)
    head = sum(jax.tree.leaves(squares["head"]), jnp.zeros(()))
    everything = sum(jax.tree.leaves(squares["backbone"]), head)
    return {"gradient_norm": jnp.sqrt(everything), "head_gradient_norm": jnp.sqrt(head)}


def _shortened(gradients: Any, norm: jax.Array, longest: float) -> Any:
    """The gradients, of this norm, at most `longest`."""
    shrink = jnp.minimum(1.0, longest / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda leaf: leaf * shrink, gradients)


def _all_finite(params: Any, axis_name: str | None) -> jax.Array:
    """Whether an update left all parameters finite, on every device."""
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
    if axis_name is None:
        return finite
    return jax.lax.pmin(finite.astype(jnp.int32), axis_name) > 0


def _moved(average: Any, latest: dict[str, Any], step: jax.Array, decay: float) -> Any:
    """The moving averages, `latest` counted in; empty where none are kept."""
    if not average:
        return average
    share = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        counts = not jnp.issubdtype(new.dtype, jnp.floating)
        return new if counts else share * old + (1.0 - share) * new

    return jax.tree.map(moved, average, latest)


def _is_fused(path: tuple[Any, ...]) -> bool:
    return [getattr(key, "name", getattr(key, "key", None)) for key in path[:2]] == [
        "head_state",
        "rows",
    ]
