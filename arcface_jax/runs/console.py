"""What a person at a terminal sees of a run."""

from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from arcface_jax.counts import number_of
from arcface_jax.errors import printable
from arcface_jax.evaluation.thresholds import too_few_pairs
from arcface_jax.losses import MarginSoftmax, loss_name, minimum_scale
from arcface_jax.models import registry
from arcface_jax.progress import Lines
from arcface_jax.runs.dataset import HELD_OUT
from arcface_jax.runs.loop import BEST_BY
from arcface_jax.runs.setup import Setup
from arcface_jax.runs.verifier import ALL_PAIRS, ALL_PAIRS_FARS, AVERAGE, Numbers, by_set
from arcface_jax.training.optimisers import peak_learning_rate
from arcface_jax.training.step import head_chunk, head_precision

TABLE_FARS = (1e-2, 1e-3)
"""False accept rates of the closing table, for a set of which not all pairs were scored."""

BEFORE = "before training"
"""What stands for step 0: of a network that starts from a trained one, too."""

_CONFIDENT = 0.9
"""Probability of the true class that the scale should allow."""


class ConsoleReporter:
    """Progress bar, verifications and the closing table. A `loop.Reporter`."""

    def __init__(self, console: Console, total_steps: int) -> None:
        """The bar runs to `total_steps`."""
        self._console = console
        self._total, self._step = total_steps, 0
        self._lines = Lines(self._print, "Training", total_steps, "opening")
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("accuracy {task.fields[accuracy]:.1%}"),
            TextColumn("rate {task.fields[rate]:.2g}"),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TextColumn("data wait {task.fields[wait]:.0%}"),
            TextColumn("{task.fields[memory]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        numbers: dict[str, Any] = {
            "loss": float("nan"),
            "accuracy": 0.0,
            "rate": 0.0,
            "speed": 0.0,
            "wait": 0.0,
        }
        self._task = self._bar.add_task("training", total=total_steps, memory="", **numbers)
        self._bad_steps = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        if not self._console.is_terminal:
            self._lines.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal:
            self._lines.__exit__(kind, error, trace)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def says(self, message: str) -> None:
        """Prints it."""
        self._console.print(f"[yellow]{escape(message)}[/yellow]", highlight=False)

    def begins(self, what: str) -> None:
        """Says it in the lines that tell how the run goes."""
        self._lines.note(what)

    def first_loss(self, seen: float, expected: float | None) -> None:
        """Prints the first loss beside the expected one."""
        beside = "" if expected is None else f", {expected:.2f} expected before training"
        self._console.print(f"Initial loss: {seen:.2f} seen{beside}.")

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Moves the bar, or prints a line now and then."""
        loss, accuracy, speed = metrics["loss"], metrics["accuracy"], metrics["images_per_second"]
        wait, rate = metrics["data_wait"], metrics["learning_rate"]
        memory = f"{metrics['memory'] / 2**30:.1f} GiB" if "memory" in metrics else ""
        self._bar.update(
            self._task,
            completed=step,
            loss=loss,
            accuracy=accuracy,
            speed=speed,
            wait=wait,
            rate=rate,
            memory=memory,
        )
        if metrics["bad_steps"] > self._bad_steps:
            self._bad_steps = metrics["bad_steps"]
            self.says(
                f"step {step}: {number_of(self._bad_steps, 'step')} so far had a loss or gradient "
                "that is not finite, and were skipped"
            )
        if not self._console.is_terminal:
            numbers = f"loss {loss:.3f}, accuracy {accuracy:.1%}, rate {rate:.2g}, "
            numbers += f"{speed:.0f} images/s, data wait {wait:.0%}"
            self._lines(step - self._step, numbers + (f", {memory}" if memory else ""))
            self._step = step

    def verified(self, step: int, numbers: Numbers, best: dict[str, tuple[int, float]]) -> None:
        """Prints one line for each set of a verification."""
        what = BEFORE if step == 0 else f"step {step}"
        for name, own in by_set(numbers).items():
            best_step, best_value = best[name]
            so_far = (
                ""
                if best_step in (0, step)
                else f" (best so far {best_value:.2%} at step {best_step})"
            )
            self._console.print(
                f"Verification, {what}{_in_words(name)}: accuracy {own[BEST_BY]:.2%} ± "
                f"{own['accuracy_std']:.2%}, AUC {own['auc']:.4f}{so_far}",
                markup=False,
            )


def _in_words(name: str) -> str:
    """What a line adds for a set."""
    return {"": "", AVERAGE: ", moving average"}.get(name, f", {name}")


def print_plan(console: Console, setup: Setup) -> None:
    """Says what is going to be trained, on what, and where."""
    config, data = setup.config, setup.data
    table = Table.grid(padding=(0, 2))
    where = "synthetic faces" if config.data.source == "synthetic" else config.data.root
    size = config.data.size
    table.add_row("Data", f"{escape(str(where))}, {size[0]}×{size[1]}, RGB")
    wanted = config.data.pairs
    short = (
        f" ({wanted:,} wanted, but there are no more)"
        if len(data.pairs) < wanted // 20 * 20
        else ""
    )
    in_memory = "" if config.data.loading == "memory" else ", decoded on the way"
    table.add_row(
        "Training",
        f"{number_of(len(data.train), 'image')} of "
        f"{number_of(data.num_classes, 'identity')}{in_memory}",
    )
    for tested in data.sets:
        held_out = tested.name == HELD_OUT
        whose = "of the same" if config.data.hold_out == "images" else "other"
        table.add_row(
            "Held out" if held_out else "Verified on",
            (
                f"{number_of(len(tested.images), 'image')} of "
                f"{number_of(len(tested.images.identity_names), f'{whose} identity')}"
                if held_out
                else f"{escape(tested.name)}, {number_of(len(tested.images), 'image')}"
            )
            + f", {number_of(len(tested.pairs), 'verification pair')}{short if held_out else ''}"
            + (f"; TAR over all {tested.num_pairs:,} too" if tested.num_pairs else ""),
        )
    program = setup.program
    parameters = registry.count_parameters(program.backbone, size)
    model = config.model
    weights = jax.eval_shape(lambda: program.make_state(1)).class_weights
    classes = "" if weights is None else f" (and {number_of(weights.size, 'class weight')})"
    table.add_row(
        "Model",
        f"{registry.in_words(model.name, model.width, model.embedding_size)}: "
        f"{number_of(parameters, 'parameter')}{classes}",
    )
    loss, expected = config.loss, program.expected_initial_loss()
    kind = "softmax, target logit " if isinstance(loss, MarginSoftmax) else ""
    fused = ", fused with its update" if config.head.update == "fused" else ""
    start = "" if expected is None else f"; expected to start at {expected:.2f}"
    table.add_row("Loss", f"{loss_name(loss)}: {kind}{loss}{fused}{start}")
    if isinstance(loss, MarginSoftmax):
        least, scale = minimum_scale(data.num_classes, _CONFIDENT), loss.scale
        advice = "" if scale >= least else "; [yellow]raise --loss.scale[/yellow]"
        classes = number_of(data.num_classes, "class")
        needed = f"probability {_CONFIDENT} over {classes} takes {least:.1f} or more"
        auto = loss.suitable_scale(data.num_classes)
        table.add_row("", f"scale {scale:g}; auto would be {auto:.3g}; {needed}{advice}")
    head, precision = config.head, head_precision(config.head)
    chunks = f"{head_chunk(head):,} classes at a time"
    many = chunks if head.kernel == "xla" else "in tiles by Pallas"
    words = [] if head.kind == "dense" else [many]
    words += [f"{head.sample_rate:.0%} of the classes a step"] if head.sample_rate < 1 else []
    words += [f"products in {precision} precision"] if precision != "highest" else []
    if words and weights is not None:
        table.add_row("Head", ", ".join([head.kind, *words]))
    rate = peak_learning_rate(config.optimiser, config.run.batch_size)
    table.add_row(
        "Optimiser", f"{config.optimiser.name}, learning rate {rate:g}, {config.optimiser.schedule}"
    )
    processes = "" if jax.process_count() == 1 else f" of {jax.process_count()} processes"
    used = program.placement.devices
    devices = f"{len(used)} × {used[0].device_kind}{processes}"
    table.add_row("Devices", f"{devices} ({config.run.parallel})")
    steps, batch = config.run.steps, config.run.batch_size
    epochs = steps * batch / len(data.train)
    table.add_row(
        "Run",
        f"{number_of(steps, 'step')} of {number_of(batch, 'image')} ({epochs:.1f} epochs), seed "
        f"{config.run.seed}",
    )
    console.print(table)
    counts = np.bincount(np.asarray(data.train.labels), minlength=data.num_classes)
    if (counts == 1).any():
        console.print(
            f"[yellow]{number_of((counts == 1).sum(), 'training identity', 'have')} a single "
            "image.[/yellow]"
        )
    if data.skipped:
        console.print(
            f"[yellow]{number_of(len(data.skipped), 'image')} cannot be decoded and are left out; "
            f"the first: {escape(data.skipped[0])}[/yellow]"
        )
    if data.emptied:
        console.print(
            f"[yellow]People left out for having no other images: {len(data.emptied):,}; the "
            f"first: {escape(printable(data.emptied[0]))}[/yellow]"
        )


def _when(step: int) -> str:
    return BEFORE if step == 0 else f"after {step} steps"


ALL_PAIRS_TITLES = (*(f"TAR at FAR {far:g}, %" for far in ALL_PAIRS_FARS), "recall@1, %")
"""Columns of what all pairs of a set tell."""


def all_pairs_cells(numbers: Numbers) -> list[str]:
    """What `ALL_PAIRS_TITLES` says, in per cent; a dash where there are too few pairs for it. Empty
    for a set of which not all were scored.
    """
    names = (*(f"{ALL_PAIRS}tar@far={far:g}" for far in ALL_PAIRS_FARS), "recall@1")
    found = [numbers.get(name) for name in names]
    if all(rate is None for rate in found):
        return []
    return ["–" if rate is None else f"{100 * rate:.2f}" for rate in found]


def print_results(console: Console, verifications: dict[int, Numbers]) -> None:
    """The closing tables: before training and after; of further sets, after it alone."""
    first, last = min(verifications), max(verifications)
    trained = by_set(verifications[last])
    lines = [(last, name, numbers) for name, numbers in trained.items()]
    if first < last:
        lines.insert(0, (first, "", by_set(verifications[first])[""]))
    wide_cells = [all_pairs_cells(numbers) for _, _, numbers in lines]
    # A few thousand drawn pairs tell little of so low a rate: only where there is nothing else.
    highest = f"{ALL_PAIRS}tar@far={max(ALL_PAIRS_FARS):g}"
    fars = () if all(highest in numbers for _, _, numbers in lines) else TABLE_FARS
    table = Table(title="Verification of people never seen in training")
    for column in ("", "accuracy", *(f"TAR at FAR {far:g}" for far in fars), "EER", "AUC"):
        table.add_column(column, justify="right")
    for step, name, numbers in lines:
        table.add_row(
            _when(step) + _in_words(name),
            f"{numbers['accuracy']:.2%} ± {numbers['accuracy_std']:.2%}",
            *(f"{numbers[f'tar@far={far:g}']:.2%}" for far in fars),
            f"{numbers['eer']:.2%}",
            f"{numbers['auc']:.4f}",
        )
    console.print(table)
    if any(wide_cells):
        wide = Table(title="Over all pairs of a set's images")
        for column in ("", *ALL_PAIRS_TITLES):
            wide.add_column(column, justify="right")
        for (step, name, _), cells in zip(lines, wide_cells, strict=True):
            if cells:
                wide.add_row(_when(step) + _in_words(name), *cells)
        console.print(wide)
    fewest = min(numbers["num_different"] for numbers in trained.values())
    note = too_few_pairs(int(fewest), min(TABLE_FARS))
    if fars and note is not None:
        console.print(f"Note: {note}.", highlight=False)
