r"""`class_sums` in Pallas: no logits are written to memory, neither forwards nor backwards.

A program of the forward pass has some examples and goes over some classes with the running maximum;
what programs of other classes found is put together afterwards, a few numbers an example. Backwards
a tile's cosines are formed again, once for the gradient by embeddings and once for that by class
weights, each summed where it is formed: no two programs write to one place, so the result does not
depend on their order. psi stays outside, as it does in `class_sums`.

**Bytes**, on paper, for N examples, C classes, D dimensions, b bytes of a stored weight. Rows of
the class weights are read for their norms, for the sums and for each gradient, and the gradient is
written: 5·b·C·D, where all examples' tiles meet a class while it is in the cache (on a TPU, which
has none, the sums and the embeddings' gradient read them ⌈N/512⌉ times). In chunks under XLA it is
3·b·C·D, and the logits, in float32: written and read twice forwards; backwards written, read for
the slopes, those written and read by two products: 32·N·C in all. With N = 1,024, D = 512 and
float32 that is 10 KB a class against 38 KB, less what of a chunk stays in the cache. The price is a
product: five of N × C × D, against four. On a GPU a gradient of few tiles comes in parts, to keep
the device busy, at most 264 tiles in all: 34 MB with D = 512.

**Skipped tiles.** With `skip` δ > 0 a tile is left out of both gradients, and the second product
with it, where every |dL/dcosθ| is at most δ·M/C, M the largest |dL/d ln Σ|·s of an example (Σ the
partition function). An example has at most C such slopes, and unit vectors add up to no more than
their number. With u a unit embedding and w a class weight, therefore

    ‖Δ dL/du‖ ≤ δ·M,    ‖Δ dL/dw‖ ≤ δ·M·N/(C·‖w‖),

and M ≤ s/N for a mean loss. As in Cut Cross-Entropy, but for the C: there the threshold is the same
2⁻¹² for every C, and with more classes than that an untrained head would get no gradient from the
wrong ones. At s = 64 the largest of a tile's thousands of random cosines has some hundred times the
mean probability: little is skipped unless similar classes lie side by side.

**On an H100 it loses**, with 10⁶ classes in bfloat16, N = 1,024 and D = 512: 60 ms a step against
XLA's 21. The sums take 6.6 ms (XLA 5.0), the two gradients 24 and 25: they hold all of D in
registers, and their products reach 85 TFLOP/s where cuBLAS's reach 600. So it is off by default. On
a CPU the kernels are interpreted; no TPU has run them. One platform a program, since Pallas lowers
for no more.

References:
  Wijmans et al., Cut Your Losses, arXiv:2411.09009. Milakov and Gimelshein, Online normalizer
  calculation for softmax, arXiv:1805.02867, for the running maximum.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from arcface_jax.cosine import inverse_norms
from arcface_jax.heads.class_sums import ClassSums, Slopes, SumOptions, cosine_slopes, log_partition


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How a device goes over examples × classes: a program has one tile of one side, the outer, and
    a span of tiles of the other.

    Attributes:
      rows: examples in a tile.
      classes: classes in a tile.
      dim: how much of D a product takes at a time; None for all of it.
      programs: how many keep the device busy; None where they run one after the other, each with a
        single tile, and go on from what the last one left.
      compiler: the compiler's options; None to interpret the kernel.
    """

    rows: int
    classes: int
    dim: int | None
    programs: int | None
    compiler: Any = None


# For the sums, and for the gradients, which hold a tile of the gradient, all of D, in registers.
TRITON = (
    Tiles(128, 128, 64, 264, triton.CompilerParams(num_warps=8, num_stages=3)),
    Tiles(64, 64, 64, 264, triton.CompilerParams(num_warps=8, num_stages=2)),
)
_MOSAIC = mosaic.CompilerParams(
    dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=64 * 2**20
)
MOSAIC = (Tiles(512, 512, None, None, _MOSAIC),) * 2
INTERPRETED = (Tiles(128, 1024, None, None),) * 2


class _Problem(NamedTuple):
    """What a kernel reads."""

    labels: Any  # [N, 2] int32, with the number of valid classes beside
    columns: Any  # [N, ·], numbers of each example
    unit: Any  # [N, D]
    weights: Any  # [C, D]
    inverse: Any  # [1, C], 1/‖w‖


class _Cosines(NamedTuple):
    """A tile of examples and classes."""

    cosine: jax.Array  # [rows, classes]
    inverse: jax.Array  # [1, classes], 1/‖w‖
    target: jax.Array  # which are the true class's
    wrong: jax.Array  # a wrong class's
    kept: jax.Array  # one's that counts in the sums


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program of the grid (outer tiles, spans of inner tiles) with its blocks; `tile` is the
    number of an inner tile within the span.
    """

    tiles: Tiles
    options: SumOptions
    outer: str
    span: int
    number: tuple[Any, Any]
    sizes: dict[str, int]
    refs: _Problem
    out: Any

    @property
    def dtype(self) -> Any:
        """What is computed in."""
        return self.refs.columns.dtype

    @property
    def dim(self) -> int:
        """How much of D is taken at a time."""
        return self.tiles.dim or self.sizes["dim"]

    @property
    def parts(self) -> int:
        """How many times, to have it all."""
        return pl.cdiv(self.sizes["dim"], self.dim)

    def numbers(self, side: str, tile: Any, axis: int) -> jax.Array:
        """Which examples or classes a tile has, along this axis of two."""
        length, (outer, span) = getattr(self.tiles, side), self.number
        tile = outer if side == self.outer else span * self.span + tile
        shape = (length, 1) if axis == 0 else (1, length)
        return tile * length + jax.lax.broadcasted_iota(jnp.int32, shape, axis)

    def place(self, side: str, tile: Any) -> Any:
        """Where in its block."""
        length = getattr(self.tiles, side)
        return pl.ds(0 if side == self.outer else tile * length, length)

    def read(self, ref: Any, place: tuple[Any, ...], there: jax.Array) -> jax.Array:
        """Part of a block, 0 where it is beyond the array's end."""
        if self.tiles.programs is None:
            return jnp.where(there, ref[place], jnp.zeros((), ref.dtype))
        view = ref.at[place]
        return triton.load(view, mask=jnp.broadcast_to(there, view.shape), other=0)

    def write(self, column: int, value: jax.Array) -> None:
        """Puts columns of the result; what lies beyond the array's end is dropped."""
        value = value.astype(self.out.dtype)
        place = (slice(None), pl.ds(column, value.shape[1]))
        if self.tiles.programs is None:
            self.out[place] = value
            return
        there = self.numbers(self.outer, 0, 0) < self.sizes[self.outer]
        there &= (
            column + jax.lax.broadcasted_iota(jnp.int32, (1, value.shape[1]), 1)
            < (self.sizes["width"])
        )
        triton.store(self.out.at[place], value, mask=jnp.broadcast_to(there, value.shape))

    def go_on(self, column: int, start: jax.Array) -> jax.Array:
        """These columns of the result as the program before left them, `start` for the first."""
        if self.tiles.programs is not None:
            return start
        left = self.out[:, pl.ds(column, start.shape[1])]
        return jnp.where(self.number[1] == 0, start, left.astype(start.dtype))

    def column(self, ref: Any, tile: Any, column: int) -> jax.Array:
        """A number of each example, [rows, 1]."""
        there = self.numbers("rows", tile, 0) < self.sizes["rows"]
        return self.read(ref, (self.place("rows", tile), pl.ds(column, 1)), there)

    def factor(self, side: str, tile: Any, part: Any) -> jax.Array:
        """Part of unit embeddings or class weights, [rows or classes, dim]."""
        there = self.numbers(side, tile, 0) < self.sizes[side]
        if self.sizes["dim"] % self.dim:
            columns = part * self.dim + jax.lax.broadcasted_iota(jnp.int32, (1, self.dim), 1)
            there &= columns < self.sizes["dim"]
        ref = self.refs.unit if side == "rows" else self.refs.weights
        return self.read(ref, (self.place(side, tile), pl.ds(part * self.dim, self.dim)), there)

    def product(self, a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
        """The product of two tiles over these axes."""
        dtype = self.dtype
        precision: str | None = self.options.precision
        if precision == "bfloat16":
            precision, dtype = None, jnp.bfloat16
        elif precision == "high" and isinstance(self.tiles.compiler, mosaic.CompilerParams):
            precision = "highest"  # Mosaic has none between that and bfloat16
        return jax.lax.dot_general(
            a.astype(dtype),
            b.astype(dtype),
            (((axes[0],), (axes[1],)), ((), ())),
            precision=precision,
            preferred_element_type=self.dtype,
        )

    def cosines(self, tile: Any) -> _Cosines:
        """Those of a tile."""

        def add(part: Any, total: jax.Array) -> jax.Array:
            unit, rows = self.factor("rows", tile, part), self.factor("classes", tile, part)
            return total + self.product(unit, rows, (1, 1))

        start = jnp.zeros((self.tiles.rows, self.tiles.classes), self.dtype)
        classes = self.numbers("classes", tile, 1)
        place = (slice(None), self.place("classes", tile))
        inverse = self.read(self.refs.inverse, place, classes < self.sizes["classes"])
        cosine = _loop(self.parts, add, start) * inverse
        fresh = classes < self.column(self.refs.labels, tile, 1)
        target = (classes == self.column(self.refs.labels, tile, 0)) & fresh
        kept = wrong = ~target & fresh
        if self.options.filter_threshold is not None:
            kept = wrong & (cosine <= self.options.filter_threshold)
        return _Cosines(cosine, inverse, target, wrong, kept)


def _loop(count: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
    return body(0, carry) if count == 1 else jax.lax.fori_loop(0, count, body, carry)


_sum_rows = functools.partial(jnp.sum, axis=1, keepdims=True)
_largest = functools.partial(jnp.max, axis=1, keepdims=True)


def _sums_kernel(program: _Program) -> None:
    """A column each: shift, partition function, true class's cosine, and what else is wanted."""
    options = program.options
    scale = program.column(program.refs.columns, 0, 0)

    def add(tile: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        shift, partition, target, *more = carry
        cosine, _, is_target, wrong, kept = program.cosines(tile)
        target += _sum_rows(jnp.where(is_target, cosine, 0.0))
        logits = scale * cosine
        largest = jnp.maximum(shift, _largest(jnp.where(kept, logits, -scale)))
        exponentials = jnp.where(kept, jnp.exp(logits - largest), 0.0)
        partition = partition * jnp.exp(shift - largest) + _sum_rows(exponentials)
        if options.cosine_sum:
            more[0] += _sum_rows(jnp.where(kept, cosine, 0.0))
            more[1] += _sum_rows(kept.astype(scale.dtype))
        if options.nearest_wrong:
            more[-1] = jnp.maximum(more[-1], _largest(jnp.where(wrong, cosine, -2.0)))
        return largest, partition, target, *more

    zeros = jnp.zeros_like(scale)
    start = [-scale, zeros, zeros, *[zeros] * (2 * options.cosine_sum)]
    start += [zeros - 2.0] * options.nearest_wrong
    carry = tuple(program.go_on(column, value) for column, value in enumerate(start))
    for column, value in enumerate(_loop(program.span, add, carry)):
        program.write(column, value)


def _gradient_kernel(program: _Program) -> None:
    """dL/d unit embeddings or dL/d class weights, of whichever side is the outer one."""
    of_unit = program.outer == "rows"
    inner, axes = ("classes", (1, 0)) if of_unit else ("rows", (0, 0))
    dtype, dim, parts = program.dtype, program.dim, range(program.parts)

    def add(tile: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        scale, *of_slopes, negligible = (
            program.column(program.refs.columns, tile, column) for column in range(6)
        )
        view = program.cosines(tile)
        slope = cosine_slopes(Slopes(*of_slopes), view.cosine, scale, view.target, view.kept)

        def accumulate(sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return tuple(
                total
                + program.product(slope * view.inverse, program.factor(inner, tile, part), axes)
                for part, total in zip(parts, sums, strict=True)
            )

        if not program.options.skip:
            return accumulate(sums)
        # NaN is not negligible.
        counts = jnp.where(jnp.abs(slope) <= negligible, 0.0, 1.0)
        return jax.lax.cond(jnp.max(counts) > 0.0, accumulate, lambda sums: sums, sums)

    zeros = jnp.zeros((getattr(program.tiles, program.outer), dim), dtype)
    sums = _loop(program.span, add, (zeros,) * len(parts))
    if not of_unit:
        # cosθ = x·w/‖w‖: along the row itself there is no slope.
        rows = [program.factor("classes", 0, part).astype(dtype) for part in parts]
        square = sum(_sum_rows(row * row) for row in rows)
        along = sum(_sum_rows(row * total) for row, total in zip(rows, sums, strict=True))
        along = along / jnp.where(square < jnp.finfo(dtype).tiny, 1.0, square)
        sums = tuple(total - along * row for row, total in zip(rows, sums, strict=True))
    for part, total in zip(parts, sums, strict=True):
        program.write(part * dim, program.go_on(part * dim, zeros) + total)


def _run(
    kernel: Callable[[_Program], None],
    tiles: Tiles,
    options: SumOptions,
    outer: str,
    width: int,
    dtype: Any,
    problem: _Problem,
) -> jax.Array:
    """The kernel over all tiles, [·, N or C, width]: what is to be put together, or the only one,
    which alone has this dtype.
    """
    (examples, dim), (classes, _) = problem.unit.shape, problem.weights.shape
    sizes = {"rows": examples, "classes": classes, "dim": dim, "width": width}
    inner = "classes" if outer == "rows" else "rows"
    outers, inners = (pl.cdiv(sizes[side], getattr(tiles, side)) for side in (outer, inner))
    span = 1
    if tiles.programs is not None:
        span = pl.cdiv(inners, max(1, tiles.programs // outers))
    spans = pl.cdiv(inners, span)
    whole = pl.cdiv(dim, tiles.dim or dim) * (tiles.dim or dim)

    def block(side: str) -> tuple[int, Callable[[Any, Any], Any]]:
        if side == outer:
            return getattr(tiles, side), lambda i, j: i
        return getattr(tiles, side) * span, lambda i, j: j

    def rows_of(side: str, width: int) -> pl.BlockSpec:
        length, number = block(side)
        return pl.BlockSpec((length, width), lambda i, j: (number(i, j), 0))

    length, number = block("classes")
    in_specs = _Problem(
        rows_of("rows", 2),
        rows_of("rows", problem.columns.shape[1]),
        rows_of("rows", whole),
        rows_of("classes", whole),
        pl.BlockSpec((1, length), lambda i, j: (0, number(i, j))),
    )
    apart = tiles.programs is not None
    out_block = (None, getattr(tiles, outer), whole if width == dim else width)

    def body(*refs: Any) -> None:
        # Interpreted, a loop within the kernel does not know them.
        number, blocks = (pl.program_id(0), pl.program_id(1)), _Problem(*refs[:-1])
        kernel(_Program(tiles, options, outer, span, number, sizes, blocks, refs[-1]))

    return pl.pallas_call(
        body,
        grid=(outers, spans),
        in_specs=[*in_specs],
        out_specs=pl.BlockSpec(out_block, lambda i, j: (j if apart else 0, i, 0)),
        out_shape=jax.ShapeDtypeStruct(
            (spans if apart else 1, sizes[outer], width),
            dtype if spans == 1 else problem.columns.dtype,
            manual_axis_type=jax.typeof(problem.unit).manual_axis_type,
        ),
        compiler_params=tiles.compiler,
        interpret=tiles.compiler is None,
    )(*problem)


def _on_device(run: Callable[..., Any], which: int, problem: _Problem) -> Any:
    """run(tiles, problem) with the tiles of the device that it comes to run on."""
    run_with = {
        platform: functools.partial(run, tiles[which])
        for platform, tiles in {"cuda": TRITON, "rocm": TRITON, "tpu": MOSAIC}.items()
    }
    return jax.lax.platform_dependent(
        problem, **run_with, default=functools.partial(run, INTERPRETED[which])
    )


def _problem(
    options: SumOptions, columns: list[jax.Array], inverse: jax.Array, *arrays: jax.Array
) -> _Problem:
    unit, weights, labels, _, valid = arrays
    valid = jnp.broadcast_to(jnp.minimum(valid, weights.shape[0]), labels.shape)
    columns = [jnp.broadcast_to(column, labels.shape) for column in columns]
    factors = unit.astype(jnp.bfloat16) if options.precision == "bfloat16" else unit
    return _Problem(jnp.stack([labels, valid], 1), jnp.stack(columns, 1), factors, weights, inverse)


def _forward(options: SumOptions, *arrays: jax.Array) -> tuple[ClassSums, jax.Array]:
    """(the sums, 1/‖w‖ as [1, C])."""
    unit, weights, _, scale, _ = arrays
    wide = weights.astype(unit.dtype)
    inverse = inverse_norms(jnp.sum(wide * wide, axis=-1))[None]
    names = ["shift", "partition", "target"]
    names += ["cosine_sum", "wrong_classes"] * options.cosine_sum
    names += ["nearest_wrong"] * options.nearest_wrong

    def run(tiles: Tiles, problem: _Problem) -> jax.Array:
        return _put_together(
            names, _run(_sums_kernel, tiles, options, "rows", len(names), unit.dtype, problem)
        )

    problem = _problem(options, [scale], inverse, *arrays)
    found = dict(zip(names, _on_device(run, 0, problem), strict=True))
    zeros = jnp.zeros_like(found["target"])
    return ClassSums(
        found["target"],
        log_partition(found["shift"], found["partition"]),
        found.get("cosine_sum", zeros),
        found.get("wrong_classes", zeros),
        found.get("nearest_wrong", zeros - 2.0),
        zeros,  # the binary sum
    ), inverse


def _put_together(names: list[str], parts: jax.Array) -> jax.Array:
    """Columns [spans, N, ·] of the sums over parts of the classes to those over all, [·, N]."""
    shift = jnp.max(parts[..., 0], axis=0)
    columns = [shift, jnp.sum(parts[..., 1] * jnp.exp(parts[..., 0] - shift), axis=0)]
    for column, name in enumerate(names[2:], 2):
        put = jnp.max if name == "nearest_wrong" else jnp.sum
        columns.append(put(parts[..., column], axis=0))
    return jnp.stack(columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pallas_sums(options: SumOptions, *arrays: jax.Array) -> ClassSums:
    """The sums that `class_sums` describes, from its arguments."""
    return _forward(options, *arrays)[0]


def _pallas_forward(options: SumOptions, *arrays: jax.Array) -> tuple[ClassSums, tuple[Any, ...]]:
    sums, inverse = _forward(options, *arrays)
    return sums, (arrays, inverse, sums)


def _pallas_backward(
    options: SumOptions, saved: tuple[Any, ...], cotangents: ClassSums
) -> tuple[Any, ...]:
    arrays, inverse, sums = saved
    unit, weights, labels, scale, valid = arrays
    weight = scale * cotangents.log_partition
    finite = jnp.where(jnp.isfinite(sums.log_partition), sums.log_partition, 0.0)
    negligible = options.skip * jnp.max(jnp.abs(weight)) / weights.shape[0]
    slopes = [cotangents.target, weight, finite, cotangents.cosine_sum]
    problem = _problem(options, [scale, *slopes, negligible], inverse, *arrays)

    def run(tiles: Tiles, problem: _Problem) -> tuple[jax.Array, jax.Array]:
        def of(outer: str, dtype: Any) -> jax.Array:
            width = unit.shape[1]
            parts = _run(_gradient_kernel, tiles, options, outer, width, dtype, problem)
            return jnp.sum(parts, axis=0).astype(dtype)

        return of("rows", unit.dtype), of("classes", weights.dtype)

    of_unit, of_weights = _on_device(run, 1, problem)
    of_scale = jnp.zeros_like(scale)
    if options.scale_gradient:
        # Σ_j dL/dcosθ_j·cosθ_j is the embedding's slope along itself; less what is not through
        # the partition function, it is s times what is wanted.
        through = jnp.sum(unit * of_unit, axis=1) - cotangents.target * sums.target
        through = (through - cotangents.cosine_sum * sums.cosine_sum) / scale
        of_scale = through if scale.ndim else jnp.sum(through)
    none = tuple(np.zeros(array.shape, jax.dtypes.float0) for array in (labels, valid))
    return of_unit, of_weights, none[0], of_scale, none[1]


pallas_sums.defvjp(_pallas_forward, _pallas_backward)
