"""What each part of the study found: tables as Markdown, numbers as JSON, pictures."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.analysis.over_seeds import Order, compare_order
from arcface_jax.analysis.paper_tables import AGEDB_ACCURACY, ANGLE_ROWS, ANGLES
from arcface_jax.counts import number_of
from arcface_jax.evaluation.tables import markdown_table
from arcface_jax.figures.ridges import angle_ridges, logit_ridges
from arcface_jax.figures.study import (
    angle_table_figure,
    courses_figure,
    losses_figure,
    sweep_figure,
)
from arcface_jax.losses.arcface import FixedMargin
from arcface_jax.margins import Psi, softmax_on_sphere
from arcface_jax.runs.run_folder import read_metrics
from arcface_jax.runs.verifier import ALL_PAIRS, ALL_PAIRS_FARS
from arcface_jax.training.config import Config

from .plan import (
    ANGLE_LOSSES,
    CURES,
    PRECISIONS,
    ROUNDED,
    RULES,
    SMALL_CLASSES,
    SMALL_IMAGES,
    TAIL,
    TESTED,
    TROUBLES,
    WATCHED,
    Part,
)
from .run import ANGLES_FILE, Case
from .tables import (
    COLUMNS,
    DIFFERENCE_HEADER,
    Results,
    cell,
    difference_rows,
    last,
    mean_accuracies,
    percents,
    seed_differences,
    tests_by_name,
    verification_numbers,
    verification_rows,
)

ANGLE_TITLES = dict(
    zip(ANGLE_ROWS, ("W–EC", "W–Inter", "Intra1", "Inter1", "Intra2", "Inter2"), strict=True)
)


CLEANING = (
    "found, %",
    "precision, %",
    "wrong of those left, %",
    "found at 40°, %",
    "precision at 40°, %",
)
"""Columns on what a clean-up finds, within the paper's 75° but for the last two."""


@dataclasses.dataclass(frozen=True)
class PartReport:
    """What a part found: Markdown, numbers for JSON, figures by file name, angles to animate."""

    text: str
    numbers: dict[str, Any]
    figures: dict[str, Figure]
    angles: dict[str, dict[int, np.ndarray]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Findings:
    """The complete runs of a part: cases by label, results by label and seed, their folder."""

    cases: Mapping[str, Case]
    runs: Mapping[str, Results]
    root: pathlib.Path

    def by_data_set(self) -> dict[str, dict[str, Results]]:
        """Those that have runs, of labels DATA SET/NAME, by both."""
        found: dict[str, dict[str, Results]] = {}
        for label, runs in self.runs.items():
            if runs:
                data_set, _, name = label.partition("/")
                found.setdefault(data_set, {})[name] = runs
        return found


def losses_report(found: Findings) -> PartReport:
    """Table 2: the verification of every loss, with tests between those of more seeds."""
    texts, numbers, panels = [], {}, {}
    for data_set, runs in found.by_data_set().items():
        tests = seed_differences(runs, TESTED[0], TESTED[1:])
        numbers[data_set] = {"losses": verification_numbers(runs), "tests": tests_by_name(tests)}
        header = ("loss", *COLUMNS.values())
        texts += [f"### {data_set}\n", markdown_table(header, verification_rows(runs))]
        if tests:
            texts.append(markdown_table(DIFFERENCE_HEADER, difference_rows(tests, TESTED[0])))
        means = mean_accuracies(runs)
        if len(means.keys() & AGEDB_ACCURACY.keys()) > 1:
            order = compare_order(means, AGEDB_ACCURACY)
            numbers[data_set]["order"] = dataclasses.asdict(order)
            texts.append(order_text(order, "accuracies on AgeDB-30 (Table 2)"))
        panels[data_set] = {name: percents(one, "accuracy") for name, one in runs.items() if one}
    return PartReport("\n".join(texts), numbers, {"losses": losses_figure(panels, "accuracy, %")})


def order_text(order: Order, what: str) -> str:
    """How our order of the losses differs from the paper's, in a sentence."""
    differing = "; ".join(f"{a} above {b}" for a, b in order.swapped)
    end = f" The paper has the other order of: {differing}." if differing else ""
    agreeing = order.num_pairs - len(order.swapped)
    return (
        f"Beside the paper's {what}: {agreeing} of {number_of(order.num_pairs, 'pair')} in its "
        "order, Kendall's "
        f"τ {order.tau:.2f}.{end}\n"
    )


def angles_report(found: Findings) -> PartReport:
    """Table 3, and the distributions of θ and of the target logit."""
    ours: dict[str, dict[str, list[float]]] = {}
    for name, runs in found.runs.items():
        if name in ANGLE_LOSSES and runs:
            ours[name] = {}
            for row, value in (item for one in runs.values() for item in table_row(one).items()):
                ours[name].setdefault(row, []).append(value)
    rows, texts, orders = [], [], {}
    for row, title in ANGLE_TITLES.items():
        cells = (f"{cell(one.get(row, []))} ({paper(name, row)})" for name, one in ours.items())
        rows.append([title, *cells])
        means = {name: float(np.mean(one[row])) for name, one in ours.items() if row in one}
        published = {name: one[row] for name, one in ANGLES.items() if row in one}
        if len(means.keys() & published.keys()) > 1:
            order = compare_order(means, published)
            orders[row] = dataclasses.asdict(order)
            texts.append(f"- {title}: {order_text(order, 'figures')}")
    numbers = {"ours": ours, "paper": ANGLES, "order": orders}
    angles = {
        name: watched_angles(case, found.root)
        for name, case in found.cases.items()
        if name in WATCHED and case.watched in found.runs[name]
    }
    figures = {"angle_table": angle_table_figure(ours, ANGLES, ANGLE_TITLES)}
    if angles:
        psis = {name: psi_of(found.cases[name].config) for name in angles}
        figures["theta_ridges"] = angle_ridges(angles)
        figures["target_logit_ridges"] = logit_ridges(angles, psis)
    table = markdown_table(("degrees (the paper's)", *ours), rows)
    return PartReport(f"{table}\n{''.join(texts)}", numbers, figures, angles)


def table_row(results: Mapping[str, Any]) -> dict[str, float]:
    """A run's column of Table 3."""
    trained, held_out = results["angles"]["trained"], results["angles"]["held_out"]
    named = {"intra1": trained["intra"], "inter1": trained["inter"]}
    named |= {"intra2": held_out["intra"], "inter2": held_out["inter"]}
    return named | {name: trained[name] for name in ("w_ec", "w_inter") if name in trained}


def paper(name: str, row: str) -> str:
    """The paper's figure, or a dash."""
    value = ANGLES[name].get(row)
    return "–" if value is None else f"{value:.1f}"


def watched_angles(case: Case, root: pathlib.Path) -> dict[int, np.ndarray]:
    """Degrees by step of the watched run of a case."""
    assert case.watched is not None
    with np.load(case.folder(root, case.watched) / ANGLES_FILE, allow_pickle=False) as kept:
        return {
            int(step): degrees for step, degrees in zip(kept["steps"], kept["degrees"], strict=True)
        }


def psi_of(config: Config) -> Psi:
    """The target-logit transform of a loss; cos θ for one without a margin common to all."""
    if isinstance(config.loss, FixedMargin):
        return config.loss.full_psi()
    return softmax_on_sphere()


def sweep_report(found: Findings, name: str, x_label: str, logarithmic: bool) -> PartReport:
    """Verification and angles over one setting."""
    header = (x_label, *COLUMNS.values(), "Intra1, °", "Inter1, °", "at more than 90°, %")
    rows, points = [], {}
    for label, runs in found.runs.items():
        if not runs:
            continue
        verified = [cell(percents(runs, column)) for column in COLUMNS]
        trained = [one["angles"]["trained"] for one in runs.values()]
        angles = [cell([one[what] for one in trained]) for what in ("intra", "inter")]
        away = cell([one["away"] for one in runs.values()], 100.0)
        rows.append([label, *verified, *angles, away])
        points[float(label)] = percents(runs, "accuracy")
    figure = sweep_figure(
        {"ArcFace": points}, x_label, "accuracy of unseen people, %", logarithmic=logarithmic
    )
    return PartReport(
        markdown_table(header, rows), verification_numbers(found.runs), {name: figure}
    )


def noise_report(found: Findings) -> PartReport:
    """Wrong labels: with one centre, with sub-centres, and trained again after a clean-up."""
    header = ("wrong labels, training", *COLUMNS.values(), *CLEANING)
    rows = []
    lines: dict[str, dict[float, list[float]]] = {}
    for label, runs in found.runs.items():
        if not runs:
            continue
        share, _, how = label.partition(" ")
        verified = [cell(percents(runs, column)) for column in COLUMNS]
        cleaning = [one["noise"] for one in runs.values() if "noise" in one]
        rates = [[one[what] for one in cleaning] for what in ("found", "precision", "left")]
        rates += [[one["at"]["40"][what] for one in cleaning] for what in ("found", "precision")]
        defined = [[value for value in values if value is not None] for values in rates]
        rows.append([label, *verified, *(cell(values, 100.0) for values in defined)])
        lines.setdefault(how, {})[float(share.rstrip("%"))] = percents(runs, "accuracy")
    numbers = {}
    for label, verification in verification_numbers(found.runs).items():
        found_noise = {seed: one.get("noise") for seed, one in found.runs[label].items()}
        numbers[label] = {"verification": verification, "cleaning": found_noise}
    figure = sweep_figure(
        lines, "wrong labels in the training set, %", "accuracy of unseen people, %"
    )
    return PartReport(markdown_table(header, rows), numbers, {"noise": figure})


def optimisation_report(found: Findings) -> PartReport:
    """Where ArcFace learns from scratch: by rule past π, gradient and cure."""
    header = ("setting", "final θ, median °", "at more than 90°, %", "accuracy, %", "bad steps")
    rows, numbers, courses = [], {}, {}
    for label, runs in found.runs.items():
        for seed, one in runs.items():
            theta = one["theta"][max(one["theta"], key=int)]
            accuracy = last(one)["accuracy"]
            percent = (f"{100 * value:.1f}" for value in (one["away"], accuracy))
            rows.append([label, f"{theta:.1f}", *percent, str(one["bad_steps"])])
            kept = {key: one[key] for key in ("theta", "away")}
            numbers[label] = {**kept, "accuracy": accuracy, "seed": seed}
            metrics = read_metrics(found.cases[label].folder(found.root, seed))
            course = [(int(line["step"]), line["theta"]) for line in metrics if line.get("theta")]
            courses[label] = ([step for step, _ in course], [theta for _, theta in course])
    panels: dict[str, Any] = {}
    for title, wanted in optimisation_panels(list(found.cases)).items():
        lines = {short: courses[label] for short, label in wanted.items() if label in courses}
        panels |= {title: lines} if lines else {}
    figures = {"optimisation": courses_figure(panels)} if panels else {}
    return PartReport(markdown_table(header, rows), numbers, figures)


def optimisation_panels(labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """By title: which cases, by a short name, are drawn together."""
    scale = next(label.split(",")[0] for label in labels if "past π" in label)
    panels = {
        f"{scale}, {gradient.replace('_', '-')} gradient": {
            f"past π: {rule}": f"{scale}, past π {rule}, {gradient}" for rule in RULES
        }
        for gradient in ("exact", "straight_through")
    }
    return panels | {
        trouble: {cure: f"{trouble}, {cure}" for cure in CURES} for trouble in TROUBLES
    }


GRADIENT_COLUMNS = {"accuracy": "accuracy, %"} | {
    f"{ALL_PAIRS}tar@far={far:g}": f"TAR at FAR {far:g}, %" for far in ALL_PAIRS_FARS
}
"""Verification of part gradients: TAR over all pairs."""


def gradients_report(found: Findings) -> PartReport:
    """What follows which slope of the margin: verification, and how far embeddings spread."""
    header = ("gradient", *GRADIENT_COLUMNS.values(), "dimensions", "length of the mean")
    header += ("fitted, %", "Intra2, °", "Inter2, °")
    texts, numbers, figures = [], {}, {}
    for data_set, runs in found.by_data_set().items():
        rows = []
        for name, one in runs.items():
            verified = [cell(percents(one, column)) for column in GRADIENT_COLUMNS]
            spread = [[run[what] for run in one.values()] for what in ("dimensions", "common")]
            fitted = [run["fitted"] for run in one.values() if "fitted" in run]
            held_out = [run["angles"]["held_out"] for run in one.values()]
            angles = [cell([run[what] for run in held_out]) for what in ("intra", "inter")]
            row = [name, *verified, cell(spread[0]), cell(spread[1], digits=2)]
            rows.append([*row, cell(fitted, 100.0), *angles])
        tests = seed_differences(runs, next(iter(runs)), list(runs)[1:], GRADIENT_COLUMNS)
        numbers[data_set] = {
            "verification": verification_numbers(runs, GRADIENT_COLUMNS),
            "dimensions": {
                name: {seed: run["dimensions"] for seed, run in one.items()}
                for name, one in runs.items()
            },
            "tests": tests_by_name(tests),
        }
        rows_of_tests = difference_rows(tests, next(iter(runs)), GRADIENT_COLUMNS)
        texts += [f"### {data_set}\n", markdown_table(header, rows)]
        texts += [markdown_table(DIFFERENCE_HEADER, rows_of_tests)] if tests else []
        low_far = list(GRADIENT_COLUMNS)[-2]
        panels = {
            GRADIENT_COLUMNS["accuracy"]: {n: percents(o, "accuracy") for n, o in runs.items()},
            GRADIENT_COLUMNS[low_far]: {n: percents(o, low_far) for n, o in runs.items()},
            "effective dimensions": {
                name: [run["dimensions"] for run in one.values()] for name, one in runs.items()
            },
        }
        figures[f"gradients_{data_set}"] = losses_figure(panels, "")
    return PartReport("\n".join(texts), numbers, figures)


def precision_report(found: Findings) -> PartReport:
    """Verification, and the loss over a run, at each precision of the head's products."""
    rows, texts, numbers, curves = [], [], {}, {}
    for loss in ROUNDED:
        runs = {one: found.runs.get(f"{loss}, {one}", {}) for one in PRECISIONS}
        for precision, of_seeds in runs.items():
            if not of_seeds:
                continue
            label = f"{loss}, {precision}"
            case = found.cases[label]
            lines = [read_metrics(case.folder(found.root, seed)) for seed in of_seeds]
            losses = [[line["loss"] for line in one if "loss" in line] for one in lines]
            curves[label] = losses
            ends = [float(np.mean(one[-max(1, len(one) // 10) :])) for one in losses]
            verified = [cell(percents(of_seeds, column)) for column in COLUMNS]
            rows.append([label, *verified, cell(ends, digits=3)])
        tests = seed_differences(runs, PRECISIONS[0], PRECISIONS[1:])
        numbers[loss] = {
            "verification": verification_numbers(runs),
            "tests": tests_by_name(tests),
            "losses": {one: curves.get(f"{loss}, {one}", []) for one in PRECISIONS},
        }
        if tests:
            text = markdown_table(DIFFERENCE_HEADER, difference_rows(tests, PRECISIONS[0]))
            texts.append(f"{loss}:\n\n{text}")
    header = ("loss, precision", *COLUMNS.values(), "loss of the last tenth")
    return PartReport("\n".join([markdown_table(header, rows), *texts]), numbers, {})


TAIL_COLUMNS = {name: f"{name}, %" for name in ("head", "middle", "tail", "all")}
"""Accuracy on left-out images of the third of the classes with the most training images, of the
next third, of the rest, and of all.
"""


def tail_report(found: Findings) -> PartReport:
    """A long tail: accuracy by class size, and what it gains on plain ArcFace."""
    texts, numbers = [], {}
    for data_set, cases in found.by_data_set().items():
        runs: dict[str, Results] = {  # as tables of verification have them
            name: {
                seed: {"verifications": {"0": last(one) | one["tail"]}}
                for seed, one in seeds.items()
            }
            for name, seeds in cases.items()
        }
        columns = TAIL_COLUMNS | {"accuracy": "unseen classes, pairs, %"}
        rows = [[name, *(cell(percents(one, c)) for c in columns)] for name, one in runs.items()]
        texts += [f"### {data_set}\n", markdown_table(("loss", *columns.values()), rows)]
        numbers[data_set] = {"losses": verification_numbers(runs, columns), "tests": {}}
        first, *others = TAIL
        tests = [(name, seed_differences(runs, name, [first], columns)) for name in others]
        rows = [row for name, one in tests for row in difference_rows(one, name, columns)]
        if rows:
            texts.append(markdown_table(DIFFERENCE_HEADER, rows))
        numbers[data_set]["tests"] = {name: tests_by_name(one) for name, one in tests}
    return PartReport("\n".join(texts), numbers, {})


def small_report(found: Findings) -> PartReport:
    """Every small set: accuracy on new classes before training and after, collapses, and how far
    training images are from their own class weight.
    """
    texts, numbers = [], {}
    for data_set, cases in found.by_data_set().items():
        header = ("classes", *(f"{images} images of each" for images in SMALL_IMAGES))
        by_size = {
            (classes, images): cases.get(f"{classes} × {images}", {})
            for classes in SMALL_CLASSES
            for images in SMALL_IMAGES
        }
        rows = [
            [f"{classes:,}", *(small_cell(by_size[classes, images]) for images in SMALL_IMAGES)]
            for classes in SMALL_CLASSES
            if any(by_size[classes, images] for images in SMALL_IMAGES)
        ]
        texts += [f"### {data_set}\n", markdown_table(header, rows)]
        numbers[data_set] = {
            name: {str(seed): small_numbers(one) for seed, one in runs.items()}
            for name, runs in cases.items()
        }
    every = [one for cases in numbers.values() for runs in cases.values() for one in runs.values()]
    lost = sum(one["collapsed"] for one in every)
    texts.append(f"{lost} of {number_of(len(every), 'run')} collapsed.\n")
    return PartReport("\n".join(texts), numbers, {})


def small_numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """Of one run; it collapsed if most training images are over 90° from their own class weight,
    or it ends less accurate than it began.
    """
    accuracies = {
        "before": results["verifications"]["0"]["accuracy"],
        "accuracy": last(results)["accuracy"],
    }
    theta = results["theta"][max(results["theta"], key=int)]
    worse = accuracies["accuracy"] < accuracies["before"]
    return accuracies | {"theta": theta, "collapsed": results["away"] > 0.5 or worse}


def small_cell(runs: Results) -> str:
    """The same for people: 61 → 80 % (35°), means over seeds."""
    if not runs:
        return "–"
    found = [small_numbers(one) for one in runs.values()]
    before, after = (100 * np.mean([one[name] for one in found]) for name in ("before", "accuracy"))
    lost = sum(one["collapsed"] for one in found)
    note = f", {lost} of {len(found)} collapsed" if lost else ""
    return f"{before:.0f} → {after:.1f} ({np.mean([one['theta'] for one in found]):.0f}°{note})"


REPORTS: dict[Part, Callable[[Findings], PartReport]] = {
    "losses": losses_report,
    "angles": angles_report,
    "margins": lambda found: sweep_report(found, "margins", "margin m, radians", False),
    "scales": lambda found: sweep_report(found, "scales", "scale s", True),
    "sizes": lambda found: sweep_report(found, "sizes", "embedding size D", True),
    "noise": noise_report,
    "optimisation": optimisation_report,
    "gradients": gradients_report,
    "precision": precision_report,
    "tail": tail_report,
    "small": small_report,
}
"""What makes the report of each part."""
