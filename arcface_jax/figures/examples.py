"""An example of every picture that is drawn from data, from small made-up numbers.

With them one command draws all pictures, and a person sees at a glance how each looks. The numbers
mean nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.evaluation.bootstrap import Interval
from arcface_jax.evaluation.calibration import Reliability
from arcface_jax.evaluation.quality import RejectCurve
from arcface_jax.evaluation.roc import Roc, roc_curve
from arcface_jax.figures import benchmark, evaluation, study, training
from arcface_jax.figures.evaluation_set import decision
from arcface_jax.figures.features import Features, features_figure
from arcface_jax.figures.inversion import inversion_figure
from arcface_jax.figures.monitor import monitor
from arcface_jax.figures.neighbours import plane_figure
from arcface_jax.figures.ridges import angle_ridges, logit_ridges
from arcface_jax.figures.samples import Mark, contact_sheet, face_sheet
from arcface_jax.margins import arcface, cosface

_NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana")


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def _scores(separation: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    same = np.arange(4000) < 1000
    return np.where(same, separation, 0.0) + 0.13 * _random().normal(size=4000), same


def _rocs() -> dict[str, Roc]:
    return {"model a": roc_curve(*_scores()), "model b": roc_curve(*_scores(0.4))}


def _faces(people: int, each: int) -> np.ndarray:
    """uint8 [people, each, 48, 48, 3]."""
    images = SyntheticFaces(people, each, image_size=48).render(np.arange(people * each))
    return images.reshape(people, each, 48, 48, 3)


def _cmc() -> Figure:
    curve = 1 - 0.08 / np.arange(1, 21) ** 1.5
    return evaluation.cmc_figure({"model a": np.where(curve > 0.995, 1.0, curve)})


def _reliability() -> Figure:
    share = [Interval(p, max(p - 0.15, 0.0), min(p + 0.1, 1.0)) for p in np.linspace(0.05, 0.95, 7)]
    found = Reliability(
        {"cllr": Interval(0.2, 0.1, 0.3)}, np.linspace(0.05, 0.95, 7), tuple(share), np.full(7, 50)
    )
    return evaluation.reliability_figure(found)


def _reject() -> Figure:
    fractions = np.linspace(0.0, 0.5, 11)
    frr = 0.1 * np.exp(-3 * fractions)
    return evaluation.reject_figure(
        {"by embedding norm": RejectCurve(fractions, fractions, frr, frr, 0.3)}
    )


def _pairs() -> Figure:
    faces = _faces(6, 1)[:, 0]
    scores = [0.62, 0.55, 0.21]
    both = [(_NAMES[row], _NAMES[row + 3]) for row in range(3)]
    files = [(f"{one}/{one}_0001.jpg", f"{other}/{other}_0001.jpg") for one, other in both]
    return evaluation.pair_sheet(
        faces[:3],
        faces[3:],
        scores,
        "Different people who look most alike",
        files,
        names=both,
        marks=[decision(score >= 0.5, same=False) for score in scores],
    )


def _contact_sheet() -> Figure:
    files = [[f"{name}_{number:04d}.jpg" for number in range(8)] for name in _NAMES[:2]]
    return contact_sheet(_faces(2, 8), "2 of 8 identities, 64 images", _NAMES[:2], files)


def _face_sheet() -> Figure:
    told = (
        ("Cleo 0.71", Mark("stranger named", right=False), "Hana"),
        ("Ann 0.58", Mark("wrong name", right=False), "Bob"),
        ("unknown 0.31", Mark("not recognised", right=False), "Dan"),
        ("Eva 0.83", Mark("right", right=True), "Eva"),
    )
    captions = [[said, f"is {name}", f"{name}_0007.jpg"] for said, _, name in told]
    marks = [mark for _, mark, _ in told]
    return face_sheet(_faces(4, 1)[:, 0], captions, "4 photos, mistakes first", marks)


def _inversion() -> Figure:
    faces = _faces(4, 2)
    return inversion_figure(
        [("real", faces[:, 0]), ("generated", faces[:, 1])],
        ["model 0.98\njudge 0.61"] * 4,
        names=_NAMES[:4],
        files=[f"{name}/1.jpg" for name in _NAMES[:4]],
    )


def _plane() -> Figure:
    centres = _random().normal(size=(8, 2))
    labels = np.repeat(np.arange(8), 12)
    plane = centres[labels] + 0.15 * _random().normal(size=(96, 2))
    title = "8 people, principal plane; keeps 64% of the nearest neighbours"
    return plane_figure(plane, labels, centres, _NAMES, title)


def _features(dim: int) -> Figure:
    centres = np.eye(3)[:, :dim]
    if dim == 2:
        turns = 2 * np.pi * np.arange(3) / 3
        centres = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    labels = np.repeat(np.arange(3), 20)
    panels = []
    for name, spread in (
        ("softmax", 0.4),
        ("softmax on the sphere", 0.25),
        ("ArcFace, m = 0.5", 0.1),
    ):
        points = centres[labels] + spread * _random().normal(size=(60, dim))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        about = (points, labels, points[::-1], labels[::-1], centres)
        panels.append(Features(name, *about, "smallest gap 58.4°"))
    return features_figure(panels)


def _angles() -> dict[str, dict[int, np.ndarray]]:
    at = {"ArcFace": (90, 60, 40), "CosFace": (90, 65, 50)}
    return {
        name: {
            step: _random().normal(mean, 8, 300)
            for step, mean in zip((0, 50, 100), means, strict=True)
        }
        for name, means in at.items()
    }


def _seeds(*means: float) -> list[float]:
    return [mean + change for mean in means for change in (-0.6, 0.1, 0.8)]


def _losses() -> Figure:
    rows = {"softmax": _seeds(90.4), "cosface": _seeds(91.2), "arcface": _seeds(91.8)}
    return study.losses_figure({"drawn faces": rows, "letters": rows}, "accuracy, %")


def _sweep() -> Figure:
    points = {margin: _seeds(90 + 8 * margin * (1 - margin)) for margin in (0.1, 0.3, 0.5, 0.7)}
    return study.sweep_figure({"ArcFace": points}, "margin m, radians", "accuracy, %")


def _angle_table() -> Figure:
    titles = dict(
        zip("abcdef", ("W–EC", "W–Inter", "Intra1", "Inter1", "Intra2", "Inter2"), strict=True)
    )
    ours = {
        name: {key: _seeds(base + 5 * at) for at, key in enumerate(titles)}
        for name, base in (("arcface", 20), ("normface", 30))
    }
    paper = {
        name: {key: values[0] + 4 for key, values in one.items()} for name, one in ours.items()
    }
    return study.angle_table_figure(ours, paper, titles)


def _courses() -> Figure:
    steps = list(range(0, 101, 5))
    lines = {
        f"past π: {rule}": (steps, [90 - slope * step for step in steps])
        for rule, slope in (("none", -0.5), ("easy", 0.4), ("linear", 0.5))
    }
    return study.courses_figure({"s = 64, exact gradient": lines, "s = 16, exact gradient": lines})


def _training(name: str) -> Figure:
    steps = np.arange(1, 101)
    losses = 20 * np.exp(-steps / 30) + 2
    if name == "loss":
        return training.training_curves(
            steps.tolist(), losses.tolist(), (1 - losses / 22).tolist(), 21.0
        )
    if name == "learning_curve":
        numbers = ([0.61, 0.9, 0.97, 0.995], [0.03, 0.02, 0.02, 0.01], [0.65, 0.96, 0.99, 1.0])
        return training.learning_curve([0, 30, 60, 100], *numbers)
    return training.angle_histogram(_angles()["ArcFace"])


def _monitor() -> Figure:
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "learning_rate": 0.1 * (1 - step / 100),
            "theta": 90 - 0.5 * step,
            "feature_norm": 5 + 0.02 * step,
            "gradient_norm": 8 / (1 + step / 20),
        }
        for step in range(1, 101)
    ]
    return monitor(lines)


def _ratios() -> Figure:
    ratios = {
        "MobileFaceNet, batch 32: step": (0.9, 1.3, 1.5),
        "iresnet18, batch 32: step": (0.4, 0.5, 0.6),
        "loss in float32 / in bfloat16, rounded to nearest": (0.99, 0.998, 1.01),
    }
    return benchmark.ratio_bars(ratios)


def _growth(scale: float) -> dict[str, dict[int, float]]:
    heads = ("dense", "chunked", "fused-float32", "partial-0.1")
    return {
        head: {classes: scale * classes / 10**4 / (1 + number) for classes in (10**4, 10**5, 10**6)}
        for number, head in enumerate(heads)
    }


def _storage() -> Figure:
    steps = np.exp(-np.arange(300) / 80)
    curves = {
        name: 20 * steps + change + 0.3 * _random().normal(size=(3, 300))
        for name, change in (("float32", 2.0), ("bfloat16, at random", 2.3))
    }
    return benchmark.loss_by_storage(curves)


EXAMPLES: dict[str, Callable[[], Figure]] = {
    "roc": lambda: evaluation.roc_figure(_rocs()),
    "det": lambda: evaluation.det_figure(_rocs()),
    "cmc": _cmc,
    "scores": lambda: evaluation.score_histogram(*_scores(), threshold=0.31),
    "reliability": _reliability,
    "reject": _reject,
    "false_accepts": _pairs,
    "contact_sheet": _contact_sheet,
    "named": _face_sheet,
    "inversion": _inversion,
    "plane": _plane,
    "toy_2d": lambda: _features(2),
    "toy_3d": lambda: _features(3),
    "theta_ridges": lambda: angle_ridges(_angles()),
    "target_logit_ridges": lambda: logit_ridges(
        _angles(), {"ArcFace": arcface(0.5), "CosFace": cosface(0.35)}
    ),
    "losses": _losses,
    "sweep": _sweep,
    "angle_table": _angle_table,
    "optimisation": _courses,
    "loss": lambda: _training("loss"),
    "learning_curve": lambda: _training("learning_curve"),
    "angles": lambda: _training("angles"),
    "monitor": _monitor,
    "ratios": _ratios,
    "head_growth": lambda: benchmark.head_growth(
        _growth(0.1), _growth(50.0), "One step of the head: N = 256, D = 512"
    ),
    "planned_memory": lambda: benchmark.planned_memory(_growth(0.3), device=16.0),
    "loss_by_storage": _storage,
}
"""By the name of the file that a command writes, what draws it from made-up numbers."""
