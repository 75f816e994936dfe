"""Which runs each part of the study needs, all under one small budget."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from arcface_jax.data.augment import Augmentation
from arcface_jax.errors import InputError
from arcface_jax.losses import LOSSES as LIBRARY
from arcface_jax.losses import ArcFace
from arcface_jax.runs.dataset import training_counts
from arcface_jax.training.config import (
    DEFAULT_SCALE,
    Config,
    DataConfig,
    ModelConfig,
    OptimiserConfig,
    RunConfig,
    with_loss,
)

from .run import Case

Part = Literal[
    "losses",
    "angles",
    "margins",
    "scales",
    "sizes",
    "noise",
    "optimisation",
    "gradients",
    "precision",
    "tail",
    "small",
]
PARTS: tuple[Part, ...] = get_args(Part)

SYNTHETIC, OMNIGLOT, FACES = "synthetic", "omniglot", "faces"
"""Names of the data sets."""

TESTED = ("arcface", "softmax", "normface")
"""Losses that are told apart by a test, and get more seeds for it."""

ANGLE_LOSSES = ("normface", "arcface", "intra", "inter", "triplet")
"""Losses of the paper's Table 3, in its order."""

WATCHED = ("arcface", "normface", "softmax", "cosface", "intra", "triplet")
"""Losses whose angles are drawn over a run."""

MARGINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SCALES = (4.0, 8.0, 16.0, 32.0, 64.0)
SIZES = (8, 16, 32, 64, 128, 256)
NOISES = (0.0, 0.1, 0.2, 0.3, 0.4)
SUB_CENTERS = 3

LONG_TAIL = 15.0
"""Training images of the largest class over those of the smallest, in part tail."""

SMALL_CLASSES, SMALL_IMAGES = (10, 50, 200, 1000), (2, 10, 50)
"""Part small: classes to train on, and images of each."""
HELD_OUT = 100
"""Drawn people who verify them."""

_BY_SIZE = {"loss.margin_by_size": 0.25}
_BALANCED = {"loss.class_balance": "effective", "loss.balance_beta": 0.9}
TAIL: dict[str, dict[str, Any]] = {
    "arcface": {},
    "margins": _BY_SIZE,
    "weights": _BALANCED,
    "both": _BY_SIZE | _BALANCED,
}
"""What part tail compares: margins by class size, class weights by effective number, both."""


def loss_changes(name: str) -> dict[str, Any]:
    """What a loss changes in a configuration: its name, and the sampler that it needs."""
    pairs = name in ("triplet", "unitsface")
    return {"loss.name": name} | ({"data.sampler": "balanced"} if pairs else {})


_DEFAULTS = {"loss.margin": 0.5, "loss.scale": 16.0, "model.embedding_size": 64}

LOSSES: dict[str, dict[str, Any]] = {
    "arcface_m0.4": {"loss.margin": 0.4},
    "arcface_m0.45": {"loss.margin": 0.45},
    "arcface": {},
    "arcface_m0.55": {"loss.margin": 0.55},
    **{name: loss_changes(name) for name in LIBRARY if name != "arcface"},
}
"""Every loss of the comparison by its name, with what it changes in the base."""


def base_config() -> Config:
    """The budget of every run: a narrow IResNet-18 on 24×24 pixels, 600 steps of 64 images.

    The learning rate rises over a fifth of the run: with a twentieth, so short a run ends with the
    class weights far from the people they stand for.
    """
    return Config(
        data=DataConfig(image_size=24, identities=320, images_per_identity=20, pairs=20_000),
        model=ModelConfig(width=8, embedding_size=64),
        loss=ArcFace(scale=DEFAULT_SCALE),
        optimiser=OptimiserConfig(warmup=0.2),
        run=RunConfig(steps=600, batch_size=64, log_every=20, keep=1, devices=1),
    )


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration with some settings, by "section.name", replaced."""
    # The name first: another loss starts from its own numbers.
    for name, value in sorted(changes.items(), key=lambda change: change[0] != "loss.name"):
        if name == "loss.name":
            config = with_loss(config, value)
            continue
        section, _, field = name.partition(".")
        part: Any = getattr(config, section)
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(part, **{field: value})}
        )
    return config


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cases of every part: changes of a base, verified at start, middle and end.

    Part optimisation has the first seed alone; the losses in TESTED have the test seeds too.
    """

    base: Config
    seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    omniglot: pathlib.Path | None
    faces: pathlib.Path | None = None

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the data sets of parts losses, gradients and tail."""
        return (SYNTHETIC,) if self.omniglot is None else (SYNTHETIC, OMNIGLOT)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds and the test seeds, each once."""
        return tuple(dict.fromkeys(self.seeds + self.test_seeds))

    def config(self, data_set: str) -> Config:
        """The base for a data set."""
        config = changed(self.base, {"run.evaluate_every": max(1, self.base.run.steps // 2)})
        if data_set == SYNTHETIC:
            return config
        option, root = f"--{data_set}", getattr(self, data_set)
        if root is None or not root.exists():
            raise InputError(f"{option} {root}: no such file or folder; give one, or leave it out")
        characters = data_set == OMNIGLOT  # a mirrored character is another
        data = DataConfig(
            source="folder",
            root=str(root),
            image_size=config.data.image_size,
            pairs=config.data.pairs,
            test_fraction=0.5 if characters else 0.25,
            flip_test=not characters,
        )
        augmentation = Augmentation(flip=0.0) if characters else config.augmentation
        return dataclasses.replace(config, data=data, augmentation=augmentation)

    def case(
        self, name: str, changes: Mapping[str, Any], data_set: str = SYNTHETIC, **options: Any
    ) -> Case:
        """A case on a data set; its name is that of the folder."""
        seeds = self.all_seeds if name in TESTED else self.seeds
        watched = self.seeds[0] if name in WATCHED and data_set == SYNTHETIC else None
        config = changed(self.config(data_set), changes)
        return Case(
            f"{data_set}/{name}", config, **({"seeds": seeds, "watched": watched} | options)
        )

    def cases(self, part: Part) -> dict[str, Case]:
        """The cases of a part by the labels of its tables."""
        parts: dict[Part, Callable[[], dict[str, Case]]] = {
            "losses": self._losses,
            "angles": lambda: {
                name: self.case(name, LOSSES[name])
                for name in dict.fromkeys(ANGLE_LOSSES + WATCHED)
            },
            "margins": lambda: self._sweep("loss.margin", "m", MARGINS),
            "scales": lambda: self._sweep("loss.scale", "s", SCALES),
            "sizes": lambda: self._sweep("model.embedding_size", "d", SIZES),
            "noise": self._noise,
            "optimisation": self._optimisation,
            "gradients": self._gradients,
            "precision": self._precision,
            "tail": self._tail,
            "small": self._small,
        }
        return parts[part]()

    def _losses(self) -> dict[str, Case]:
        return {
            f"{data_set}/{name}": self.case(name, changes, data_set)
            for data_set in self.data_sets
            for name, changes in LOSSES.items()
        }

    def _sweep(self, setting: str, letter: str, values: Sequence[float]) -> dict[str, Case]:
        """ArcFace over a setting; its own value, and margin 0, are cases that others have too."""
        cases = {f"{value:g}": (f"arcface_{letter}{value:g}", {setting: value}) for value in values}
        cases[f"{_DEFAULTS[setting]:g}"] = ("arcface", {})
        if setting == "loss.margin":
            cases["0"] = ("normface", LOSSES["normface"])
        return {label: self.case(*case) for label, case in cases.items()}

    def _noise(self) -> dict[str, Case]:
        cases = {}
        sub_centers = {"loss.sub_centers": SUB_CENTERS}
        for noise in NOISES:
            share = f"{100 * noise:.0f}"
            end = f"_noise{share}" if noise else ""
            with_k = self.case(f"arcface_k{SUB_CENTERS}{end}", sub_centers, noise=noise)
            cases[f"{share}% K=1"] = self.case(f"arcface{end}", {}, noise=noise)
            cases[f"{share}% K={SUB_CENTERS}"] = with_k
            if noise:
                cases[f"{share}% cleaned"] = self.case(
                    f"arcface_cleaned{share}", {}, noise=noise, cleaned_by=with_k.name
                )
        return cases

    def _optimisation(self) -> dict[str, Case]:
        first = self.seeds[:1]
        cases = {}
        for past_pi, gradient in itertools.product(RULES, ("exact", "straight_through")):
            changes = {"loss.past_pi": past_pi, "loss.gradient": gradient}
            cases[f"s = {_LARGE_SCALE:g}, past π {past_pi}, {gradient}"] = self.case(
                f"optimisation/{past_pi}_{gradient}",
                {"loss.scale": _LARGE_SCALE, **changes},
                seeds=first,
            )
        for trouble, what in TROUBLES.items():
            for cure, changes in CURES.items():
                name = f"optimisation/{trouble}_{cure}".replace(" ", "").replace("=", "")
                cases[f"{trouble}, {cure}"] = self.case(name, {**what, **changes}, seeds=first)
        return cases

    def _gradients(self) -> dict[str, Case]:
        return {
            f"{data_set}/{label}": self.case(*case, data_set, seeds=self.all_seeds)
            for data_set in self.data_sets
            for label, case in GRADIENTS.items()
        }

    def _precision(self) -> dict[str, Case]:
        return {
            f"{label}, {precision}": self.case(
                f"precision/{label.split(',')[0].lower()}_{precision}",
                {**changes, "head.precision": precision},
            )
            for label, changes in ROUNDED.items()
            for precision in PRECISIONS
        }

    def _tail(self) -> dict[str, Case]:
        return {
            f"{data_set}/{name}": self.case(f"tail_{name}", changes, data_set, long_tail=LONG_TAIL)
            for data_set in self.data_sets
            for name, changes in TAIL.items()
        }

    def _small(self) -> dict[str, Case]:
        """Sets that the data hold, of drawn faces all; with the base's scale, and with that by
        `suitable_scale`.
        """
        people = max(SMALL_CLASSES) + HELD_OUT
        drawn = {
            "data.identities": people,
            "data.images_per_identity": max(SMALL_IMAGES),
            "data.test_fraction": HELD_OUT / people,
        }
        data_sets = (*self.data_sets, *([FACES] if self.faces is not None else []))
        sizes = itertools.product(SMALL_CLASSES, SMALL_IMAGES)
        cases = {}
        for data_set, (classes, images) in itertools.product(data_sets, list(sizes)):
            if data_set != SYNTHETIC and not self._holds(data_set, classes, images):
                continue
            changes, name = drawn if data_set == SYNTHETIC else {}, f"small_{classes}x{images}"
            loss: Any = self.base.loss
            scale = loss.suitable_scale(classes)
            for end, more in (("", {}), (", scale auto", {"loss.scale": round(scale, 2)})):
                cases[f"{data_set}{end}/{classes} × {images}"] = self.case(
                    name + end.replace(", scale ", "_"),
                    changes | more,
                    data_set,
                    size=(classes, images),
                )
        return cases

    def _holds(self, data_set: str, classes: int, images: int) -> bool:
        """Whether every seed trains on so many classes with so many images."""
        counts = (_class_counts(self.config(data_set).data, seed) for seed in self.seeds)
        return all((each >= images).sum() >= classes for each in counts)


_class_counts = functools.lru_cache(maxsize=32)(training_counts)

_LARGE_SCALE = 64.0
RULES = ("none", "linear", "easy", "clip", "reflect")

TROUBLES: dict[str, dict[str, Any]] = {
    "s = 64": {"loss.scale": _LARGE_SCALE},
    "m = 1": {"loss.margin": 1.0},
}
"""Settings with which ArcFace may not learn from scratch."""

CURES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "margin warm-up": {"loss.margin_warmup": 0.5},
    "straight-through": {"loss.gradient": "straight_through"},
    "gradient clipped": {"optimiser.clip": 2.0},
    "a tenth of the rate": {"optimiser.learning_rate": 0.01},
    "CosFace instead": {"loss.name": "cosface"},
}
"""What may help where ArcFace does not learn."""

_SLOPES = f"{__package__}.slopes"

GRADIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ArcFace, exact": ("arcface", {}),
    "straight-through": ("gradients/straight_through", {"loss.gradient": "straight_through"}),
    "slope at most 1": ("gradients/at_most_one", {"loss.name": f"{_SLOPES}:AtMostOne"}),
    "slope at least 1": ("gradients/at_least_one", {"loss.name": f"{_SLOPES}:AtLeastOne"}),
    "1, then exact": ("gradients/one_then_exact", {"loss.exact_from": 0.5}),
    "zero sum": ("gradients/zero_sum", {"loss.name": f"{_SLOPES}:ZeroSum"}),
    "balanced": ("gradients/balanced", {"loss.name": f"{_SLOPES}:Balanced"}),
    "margin warm-up": ("gradients/warm_up", {"loss.margin_warmup": 0.5}),
    "CosFace": ("cosface", loss_changes("cosface")),
    "NormFace": ("normface", loss_changes("normface")),
    "softmax": ("softmax", loss_changes("softmax")),
}
"""What follows which gradient: the folder of a case, and what it changes in the base."""

PRECISIONS = ("highest", "bfloat16")
"""Of the head's products: the finest and the coarsest, which every device rounds alike."""

ROUNDED: dict[str, dict[str, Any]] = {
    "ArcFace, s = 16": {},
    "CosFace, s = 64": {"loss.name": "cosface", "loss.scale": _LARGE_SCALE},
}
"""Losses that are trained at each precision: with the scale, an error of a cosine grows."""
