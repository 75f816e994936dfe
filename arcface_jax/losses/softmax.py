"""The one margin softmax, as a function, and the loss objects that are built on it.

A label of −1 marks padding: its loss is 0 and no gradient comes from its row. Labels, margins and
scales are checked when they are concrete; under `jit` a label outside [0, C) other than −1 counts
as −1.
"""

import dataclasses
from typing import Any, ClassVar, Literal, TypedDict, Unpack, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import (
    check_between,
    check_choice,
    check_floating,
    check_labels,
    check_positive,
)
from arcface_jax.cosine import (
    cosine_logits,
    has_class,
    head_dtype,
    own_cosines,
    row_norms,
    take_target,
    target_mask,
)
from arcface_jax.errors import InputError
from arcface_jax.heads.class_sums import ClassSums, Eta, SumOptions, class_sums, unchanged
from arcface_jax.heads.sampling import ClassSample, places_in_sample, take_rows
from arcface_jax.heads.shards import AxisName, class_axis
from arcface_jax.heads.softmax import (
    SharedBatch,
    apply_psi,
    bind_eta,
    blank_ignored,
    check_head,
    check_scale,
    compute_dtype,
    losses_from_sums,
    reduce_sums,
    share_batch,
    sum_options,
)
from arcface_jax.losses.class_sizes import (
    Balance,
    check_beta,
    check_counts,
    margins_by_size,
    weights_by_size,
)
from arcface_jax.losses.loss import (
    AT_START,
    Context,
    Loss,
    LossOutput,
    loss_name,
    simulated_batch,
)
from arcface_jax.losses.untrained import automatic_scale, mean_log_sum, random_cosines
from arcface_jax.margins import ARCFACE, CombinedMargin, Psi


class _Options(TypedDict, total=False):
    """Those of `margin_softmax_loss` on which the type of its result does not depend."""

    psi: Psi
    eta: Eta | None
    scale: Any
    label_smoothing: float
    filter_threshold: float | None
    chunk: int | None
    axis_name: AxisName | None
    num_classes: int | None
    sample: ClassSample | None
    precision: str
    kernel: str
    skip: float


@overload
def margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    with_cosines: Literal[False] = False,
    **options: Unpack[_Options],
) -> jax.Array: ...


@overload
def margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    with_cosines: Literal[True],
    **options: Unpack[_Options],
) -> tuple[jax.Array, jax.Array, jax.Array]: ...


def margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi = ARCFACE,
    eta: Eta | None = None,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
    chunk: int | None = None,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    sample: ClassSample | None = None,
    precision: str = "highest",
    kernel: str = "xla",
    skip: float = 0.0,
    with_cosines: bool = False,
) -> Any:
    r"""Margin softmax: cosines of embeddings and class weights, a margin on the true class,
    cross-entropy.

        L = −log( e^{s·psi(cosθ_y)} / (e^{s·psi(cosθ_y)} + Σ_{j≠y} e^{s·cosθ_j}) ).

    The logarithm is never taken of a probability, so nothing saturates. Everything after the inputs
    is in float32, or float64 for float64 inputs. The value does not depend on how the classes are
    gone over:

    - `chunk=None` forms all cosines at once: O(N·C) memory, three products of N × C × D.
    - `chunk` goes through so many classes at a time and never holds the logits: O(N·chunk) memory,
      four products. Reverse-mode differentiation only, once.
    - `kernel="pallas"` goes through them in tiles whose logits are never written to memory: O(N)
      memory, five products. Differentiation as with `chunk`. For GPU, where it was three times
      slower, and TPU, where it was not measured; on a CPU it is interpreted, which is for tests.
      See `arcface_jax.heads.pallas_sums`.
    - `axis_name` splits the classes over devices that each hold a shard of them and a part of the
      batch (inside shard_map, pmap or vmap). Embeddings and labels are gathered, sums over classes
      are reduced: what travels is O(N·D), whatever C, never logits. Differentiate the sum over all
      devices' examples: outside shard_map, or inside with each device's own sum. The gradient of a
      shard then comes from all N examples and needs no further reduction over the axis.
    - `sample` leaves all but these classes out, Partial FC; its own value, not the whole softmax's.
      The rows outside it have a gradient of zero: with any optimiser that is V2. V1, and either
      without a gradient of all rows, are `arcface_jax.heads.fused_head_step`.

    Args:
      embeddings: [N, D]; their lengths do not matter. On several devices, this one's.
      class_weights: [C, D], or [C, K, D] for K sub-centres a class, of which the nearest counts. On
        several devices this one's shard, see `shard_classes`.
      labels: y, [N] integers in [0, C), or −1 for a row to ignore.
      psi: the margin; see `arcface_jax.margins`. For a margin of each example give it arrays [N].
      eta: what takes the place of a wrong class's cosine, a function of cosines [N, c] whose values
        are −1 or more. `jax.tree_util.Partial(function, name=array)` binds arrays to it, scalars
        or [N]; those reach the function as [N, 1].
      scale: s > 0; a number, a scalar array (which may be learnt) or [N].
      label_smoothing: ε in [0, 1]; the wanted distribution is (1 − ε)·[j = y] + ε/C.
      filter_threshold: leave a wrong class out of a row's softmax where its cosine is above this:
        it is likely the same person under another label.
      chunk: the most classes at a time; it need not divide C.
      axis_name: the mapped axis that the classes are split over (several with shard_map only).
      num_classes: C of all devices together; needed with `axis_name`.
      sample: from `sample_classes` or `hard_classes`, with these labels.
      precision: of the matrix products; see `arcface_jax.cosine.product`.
      kernel: xla, or pallas, without `chunk`, sub-centres and `eta`.
      skip: δ in [0, 1], of kernel pallas: leave tiles of negligible probabilities out of the
        gradient. That of the mean loss by a normalised embedding is off by at most δ·s/N.
      with_cosines: also return what the same products give, at no further cost.

    Returns: the loss of each example, [N]; with `with_cosines` (loss, cosθ_y [N], whether no other
      class (of the sample) is as near [N]).

    Raises:
      InputError: for a wrong shape, dtype, label, scale, smoothing, threshold, chunk or kernel.

    References:
      Deng et al., ArcFace, arXiv:1801.07698. Wijmans et al., Cut Your Losses, arXiv:2411.09009, for
      losses without logits. An et al., Partial FC, arXiv:2010.05222 and arXiv:2203.15565.
    """
    options = sum_options(
        chunk=chunk,
        label_smoothing=label_smoothing,
        filter_threshold=filter_threshold,
        scale=scale,
        precision=precision,
        nearest_wrong=with_cosines,
        kernel=kernel,
        skip=skip,
    )
    how: Any = {"eta": eta, "axis_name": axis_name, "num_classes": num_classes, "sample": sample}
    sums, batch, own = sums_of_batch(embeddings, class_weights, labels, scale, options, **how)
    loss = losses_from_sums(sums, own, psi, batch.scale, label_smoothing)
    return (loss, sums.target, own & (sums.target > sums.nearest_wrong)) if with_cosines else loss


def sums_of_batch(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    scale: Any,
    options: SumOptions,
    *,
    eta: Eta | None = None,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    sample: ClassSample | None = None,
) -> tuple[ClassSums, SharedBatch, jax.Array]:
    """(sums over all classes of this device's examples, the batch, which examples have a class):
    what every head makes a loss of; for the arguments see `margin_softmax_loss`.
    """
    axis = class_axis(axis_name, num_classes, jnp.shape(class_weights)[0])
    embeddings, class_weights = check_head(embeddings, class_weights, axis)
    options = dataclasses.replace(options, skip=options.skip / axis.size)
    dtype = compute_dtype(embeddings, class_weights)
    batch = share_batch(embeddings, labels, scale, axis, dtype)
    places, valid = batch.local_labels, axis.classes_here()
    if sample is not None:
        class_weights = take_rows(class_weights, sample)
        places, valid = places_in_sample(places, sample), sample.active
    bound = bind_eta(eta, axis, dtype)
    sums = class_sums(batch.unit, class_weights, places, batch.all_scales, valid, options, bound)
    sums = reduce_sums(sums, batch, axis, options)
    return sums, batch, has_class(batch.labels, axis.num_classes)


def target_cosines(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    **_: Any,
) -> jax.Array:
    """cosθ_y before any pass over the classes, for a loss that needs it to form its logits.

    Args:
      embeddings: [N, D]; on several devices, this one's.
      class_weights: [C, D] or [C, K, D]; on several devices this one's shard.
      labels: [N] integers in [0, C), or −1.
      axis_name, num_classes: as in `margin_softmax_loss`, whose other options change nothing here.

    Returns: [N], 0 for the label −1; no gradient.
    """
    axis = class_axis(axis_name, num_classes, jnp.shape(class_weights)[0])
    embeddings, class_weights = check_head(embeddings, class_weights, axis)
    embeddings, class_weights = jax.lax.stop_gradient((embeddings, class_weights))
    batch = share_batch(embeddings, labels, 1.0, axis, compute_dtype(embeddings, class_weights))
    own = own_cosines(batch.unit, class_weights, batch.local_labels)
    own = own if own.ndim == 1 else jnp.max(own, axis=-1)
    return axis.scatter_sum(
        jnp.where(has_class(batch.local_labels, axis.classes_here()), own, 0.0), 0
    )


def margin_cross_entropy(
    cosine: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
) -> jax.Array:
    r"""`margin_softmax_loss` from cosines that are there already:

        L = −log( e^{s·psi(cosθ_y)} / (e^{s·psi(cosθ_y)} + Σ_{j≠y} e^{s·cosθ_j}) ).

    Args:
      cosine: cosθ, [N, C].
      labels: y, [N] integers in [0, C), or −1 for a row to ignore.
      psi: the margin, cosines [N] -> cosines [N].
      scale: s > 0; a number, a scalar array (which may be learnt) or [N].
      label_smoothing: ε in [0, 1].
      filter_threshold: leave a wrong class out of a row's softmax where its cosine is above this.

    Returns: [N] in float32, or float64 for float64 cosines.

    Raises:
      InputError: for a wrong shape, dtype, label, scale or smoothing.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, eq. 3 and 4. An et al., Partial FC, arXiv:2203.15565,
      for the filter.
    """
    cosine = check_floating("cosine", cosine, 2)
    cosine = cosine.astype(head_dtype(cosine))
    labels = check_labels(labels, *cosine.shape)
    scale = column_of_scales(scale, cosine.shape[0], cosine.dtype)
    mask = target_mask(labels, cosine.shape[1])
    logits = scale * jnp.where(mask, apply_psi(psi, take_target(cosine, mask))[:, None], cosine)
    kept = None
    if filter_threshold is not None:
        check_between("filter_threshold", filter_threshold, -1.0, 1.0)
        kept = mask | (cosine <= filter_threshold)
    return cross_entropy(logits, mask, label_smoothing, kept)


def cosines_and_mask(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, precision: str = "highest"
) -> tuple[jax.Array, jax.Array]:
    """(cosines [N, C], which of them is the true class's), for a loss that needs them all."""
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    blanked = blank_ignored(embeddings, labels)
    cosine = cosine_logits(blanked, class_weights, precision=precision)
    return cosine, target_mask(labels, cosine.shape[1])


def cross_entropy(
    logits: jax.Array, mask: jax.Array, label_smoothing: float, kept: jax.Array | None = None
) -> jax.Array:
    """−Σ_j q_j log p_j with q = (1 − ε)·[j = y] + ε/C, over the kept classes; 0 for a row without a
    true class.
    """
    check_between("label_smoothing", label_smoothing, 0.0, 1.0)
    log_partition = jax.nn.logsumexp(logits, axis=-1, where=kept)
    loss = log_partition - (1.0 - label_smoothing) * take_target(logits, mask)
    if label_smoothing:
        loss = loss - label_smoothing * jnp.mean(logits, axis=-1, where=kept)
    return jnp.where(jnp.any(mask, axis=-1), loss, 0.0)


def column_of_scales(scale: Any, rows: int, dtype: jnp.dtype) -> Any:
    """The scale as it multiplies [N, C]: a number as it is, an array in the head's dtype, [N]
    turned to [N, 1].
    """
    check_scale(scale, rows)
    if jnp.ndim(scale) == 0:
        return scale.astype(dtype) if isinstance(scale, jax.Array) else float(scale)
    return jnp.asarray(scale).astype(dtype)[:, None]


@dataclasses.dataclass(frozen=True)
class MarginSoftmax(Loss):
    """Softmax cross-entropy of s·cosines with psi in place of the true class's cosine.

    A loss of one's own is a subclass with a `psi`, and perhaps a state or a penalty.
    """

    any_head: ClassVar[bool] = True
    needs_target: ClassVar[bool] = False
    """Whether `advance`, `psi` or `eta` read context.target."""

    scale: float = 64.0
    """Radius s of the sphere of the logits. 64 in the papers, too much for a small network. On the
    command line also auto: `automatic_scale`, by the number of classes.
    """
    sub_centers: int = 1
    """Centres of each class, K; its cosine is the largest of theirs, so that wrong labels gather in
    a centre apart.
    """
    label_smoothing: float = 0.0
    """Share ε of the wanted distribution that is spread over all classes."""
    filter_threshold: float | None = None
    """Leave a wrong class out of an example's softmax where its cosine is above this: likely the
    same person.
    """
    margin_by_size: float = 0.0
    """λ of margins by class size, m_c = a·n_c^(−λ) + b of n_c training images: the class with the
    fewest has the whole margin of the loss. 0 for one margin of all classes; arXiv:2010.05350 has
    0.25.
    """
    margin_of_largest: float = 0.1
    """With margin_by_size: share of the margin that the class with the most images has."""
    class_balance: Balance = "none"
    """What an example's cross-entropy weighs. inverse: 1/n_c, n_c the training images of its class.
    effective: the inverse of their effective number, (1 − β)/(1 − β^n_c) (arXiv:1901.05555). A
    training image weighs 1 on average.
    """
    balance_beta: float = 0.999
    """β of class_balance effective, in (0, 1)."""

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_between("margin_by_size", self.margin_by_size, 0.0, 10.0)
        check_between("margin_of_largest", self.margin_of_largest, 0.0, 1.0)
        check_choice("class_balance", self.class_balance, get_args(Balance))
        check_beta("balance_beta", self.balance_beta)
        if self.sub_centers < 1:
            raise InputError(f"sub_centers is {self.sub_centers}; pass 1 or more")
        check_between("label_smoothing", self.label_smoothing, 0.0, 1.0)
        if self.filter_threshold is not None:
            check_between("filter_threshold", self.filter_threshold, -1.0, 1.0)

    def psi(self, context: Context) -> Psi:
        """The margin of this batch, cosines [n] -> target logits over s [n]."""
        raise NotImplementedError

    def eta(self, context: Context) -> Eta | None:
        """What takes the place of wrong classes' cosines, as `margin_softmax_loss` has it."""
        return None

    def sized_psi(self, context: Context, num_classes: int) -> Psi:
        """`psi`, with each example's margin by the size of its class where that is wanted.

        Raises:
          InputError: nobody counted the classes, or there is no margin to make smaller.
        """
        psi: Any = self.psi(context)
        if not self.margin_by_size:
            return psi
        fixed = isinstance(psi, CombinedMargin) and not jax.tree.leaves(psi)
        if (fixed and psi.scaled(0.0) == psi) or not hasattr(psi, "scaled"):
            raise InputError(
                f"margin_by_size {self.margin_by_size:g} does nothing for loss.name "
                f"{loss_name(self)}, whose psi has no margin m1, m2 or m3; leave it out"
            )
        counts = check_counts(context.class_counts, num_classes)
        share = margins_by_size(counts, self.margin_of_largest, 1.0, self.margin_by_size)
        return psi.scaled(jnp.take(share, context.labels, mode="clip"))

    def example_weights(self, context: Context, num_classes: int) -> jax.Array | None:
        """What the cross-entropy of each example weighs, [n]; None where all weigh 1.

        Raises:
          InputError: nobody counted the classes.
        """
        if self.class_balance == "none":
            return None
        counts = check_counts(context.class_counts, num_classes)
        weights = weights_by_size(counts, self.class_balance, self.balance_beta)
        return jnp.take(weights, context.labels, mode="clip")

    def advance(self, state: dict[str, Any], context: Context) -> dict[str, Any]:
        """The state with this batch counted in, by its labels and norms."""
        return state

    def penalty(self, context: Context, target_cosine: jax.Array) -> Any:
        """What is added to each loss, a number or [n]."""
        return 0.0

    def radius(self, params: dict[str, Any]) -> Any:
        """s."""
        return self.scale

    def suitable_scale(self, num_classes: int) -> float:
        """`automatic_scale` for its margin, or for ArcFace's of .5 where its own is not fixed."""
        return automatic_scale(num_classes)

    def __str__(self) -> str:
        centres = f", {self.sub_centers} sub-centres" if self.sub_centers > 1 else ""
        sizes = ""
        if self.margin_by_size:
            sizes = f", margin by class size^−{self.margin_by_size:g}"
            sizes += f" down to {self.margin_of_largest:.0%}"
        if self.class_balance != "none":
            sizes += f", classes weighted by {self.class_balance} number"
        return f"{self.scale:g}·{self.formula()}{centres}{sizes}"

    def formula(self) -> str:
        """The target logit over s, for people."""
        return f"psi of {type(self).__name__}"

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """{"class_weights": [C, D]}, or [C, K, D] for K > 1 sub-centres."""
        if self.sub_centers == 1:
            return super().init_params(key, num_classes, embedding_size)
        shape = (num_classes, self.sub_centers, embedding_size)
        return {"class_weights": 0.01 * jax.random.normal(key, shape, jnp.float32)}

    def begin(
        self, state: dict[str, Any], embeddings: jax.Array, labels: jax.Array, context: Context
    ) -> tuple[dict[str, Any], Context]:
        """(the new state, the context with this batch in it)."""
        norms = row_norms(blank_ignored(embeddings, labels))
        norms = norms if self.needs_norms else jax.lax.stop_gradient(norms)
        dim = embeddings.shape[1]
        context = dataclasses.replace(context, labels=labels, norms=norms, dim=dim)
        state = self.advance(state, context)
        return state, dataclasses.replace(context, state=state)

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """`margin_softmax_loss` with this loss's psi and scale, plus its penalty."""
        weights = params["class_weights"]
        classes = over.get("num_classes") or jnp.shape(weights)[0]
        embeddings = check_floating("embeddings", embeddings, 2)
        labels = check_labels(labels, embeddings.shape[0], classes)
        if self.needs_target:
            target = target_cosines(embeddings, weights, labels, **over)
            context = dataclasses.replace(context, target=target)
        state, context = self.begin(state, embeddings, labels, context)
        loss, target_cosine, hit = margin_softmax_loss(
            embeddings,
            weights,
            labels,
            psi=self.sized_psi(context, classes),
            eta=self.eta(context),
            scale=self.radius(params),
            label_smoothing=self.label_smoothing,
            filter_threshold=self.filter_threshold,
            precision=context.precision,
            with_cosines=True,
            **over,
        )
        importance = self.example_weights(context, classes)
        loss = loss if importance is None else loss * importance
        penalty = self.penalty(context, target_cosine)
        loss = loss + jnp.where(has_class(labels, classes), penalty, 0.0)
        return LossOutput(loss, state, target_cosine, hit)

    def expected_initial_loss(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        class_counts: Any = None,
        norm: float | None = None,
        sample_rate: float = 1.0,
    ) -> float:
        """By integration over random cosines, with the psi and penalty of simulated embeddings."""
        seen = max(1, round(sample_rate * num_classes))
        if type(self).__call__ is not MarginSoftmax.__call__ or self.needs_target:
            # Nothing is known of it, or too much at once.
            counts = None if class_counts is None else jnp.asarray(class_counts)[:seen]
            return super().expected_initial_loss(
                seen, embedding_size, class_counts=counts, norm=norm
            )
        embeddings, labels = simulated_batch(512, num_classes, embedding_size, class_counts, norm)
        context = Context(key=jax.random.key(3), class_counts=class_counts)
        _, context = self.begin(self.init_state(num_classes), embeddings, labels, context)
        cosines, weights = random_cosines(embedding_size, self.sub_centers)
        # Each example has its own psi: they take the quantiles of the cosine in a random order.
        quantiles = np.interp((np.arange(512) + 0.5) / 512, np.cumsum(weights), cosines)
        own = jnp.asarray(np.random.default_rng(0).permutation(quantiles), jnp.float32)
        targets = np.asarray(self.sized_psi(context, num_classes)(own), np.float64)
        importance = self.example_weights(context, num_classes)
        each = np.ones(512) if importance is None else np.asarray(importance, np.float64)
        shares = each / each.sum()
        penalty = float(jnp.mean(jnp.asarray(self.penalty(context, own))))
        scale, smoothing = self.scale, self.label_smoothing
        eta = self.eta(context) or unchanged
        values = np.asarray(eta(jnp.asarray(cosines, jnp.float32)), np.float64)
        log_sum = mean_log_sum(scale * targets, shares, scale * values, weights, seen - 1)
        others, target = (seen - 1) * float(weights @ values), float(shares @ targets)
        wanted = (1.0 - smoothing) * target + smoothing * (target + others) / seen
        return log_sum - scale * wanted + penalty  # a training image weighs 1 on average
