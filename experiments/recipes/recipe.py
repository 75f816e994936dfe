"""What a published recipe is: a configuration, the data that it is for, and what it gave its
authors.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from arcface_jax.training.config import Config, DataConfig, ModelConfig, RunConfig


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A published training set."""

    name: str
    identities: int
    images: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """A published training speed: images a second over all devices, and of what."""

    images_per_second: float
    of: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A preset of the command train; called, it makes its configuration.

    Attributes:
      make: the function that a recipe is written as.
      data: the training set.
      published: the authors' result with this recipe; None where none is known for certain.
      speed: from which `hours` is estimated; None where none is published for this network.
    """

    make: Callable[[], Config]
    data: DataSet
    published: str | None
    speed: Speed | None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "__doc__", f"{(self.make.__doc__ or '').rstrip()}\n\n    {self.facts()}\n"
        )

    def __call__(self) -> Config:
        """The configuration; the data's place is for the command line."""
        return self.make()

    @property
    def name(self) -> str:
        """As it is typed."""
        return self.make.__name__.replace("_", "-")

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        run = self().run
        return run.steps * run.batch_size / self.data.images

    @property
    def hours(self) -> float | None:
        """Images of the run over the published speed; None without one."""
        if self.speed is None:
            return None
        return self.epochs * self.data.images / self.speed.images_per_second / 3600

    def schedule(self) -> str:
        """Optimiser, rates, batch and length, in words."""
        config = self()
        optimiser, run = config.optimiser, config.run
        length = f"{run.steps:,} steps of {run.batch_size:,} ({self.epochs:.1f} epochs)"
        warmup = f", warm-up {round(optimiser.warmup * run.steps):,}" if optimiser.warmup else ""
        if optimiser.schedule == "steps":
            shape = "÷10 at " + ", ".join(
                f"{round(share * run.steps):,}" for share in optimiser.drops
            )
        else:
            shape = optimiser.schedule
        return f"{optimiser.name} {optimiser.learning_rate:g}, {shape}{warmup}; {length}"

    def expected(self) -> str:
        """How long it takes, and how that is known."""
        if self.speed is None:
            return "no published speed of this network; --check times a few steps"
        speed = f"{self.speed.images_per_second:,.0f} images a second"
        return f"{self.hours:.1f} hours at {speed}, which others measured ({self.speed.of})"

    def facts(self) -> str:
        """Data, schedule, published result and hours, for the documentation."""
        data = self.data
        return "\n    ".join(
            (
                f"Data: {data.name}, {data.identities:,} identities, {data.images:,} images.",
                f"Schedule: {self.schedule()}.",
                f"Published: {self.published or 'no result of exactly this run'}.",
                f"Expected: {self.expected()}.",
            )
        )


def recipe(
    data: DataSet, *, published: str | None, speed: Speed | None
) -> Callable[[Callable[[], Config]], Recipe]:
    """Makes a `Recipe` of a function that returns a configuration."""
    return lambda make: Recipe(make, data, published, speed)


# The aligned 112×112 crops that the papers train on. Cut anew, a set may have other numbers: a run
# counts its own.
CASIA = DataSet("CASIA-WebFace", 10_572, 490_623)
MS1MV2 = DataSet("MS1MV2", 85_742, 5_822_653)
MS1MV3 = DataSet("MS1MV3", 93_431, 5_179_510)
GLINT360K = DataSet("Glint360K", 360_232, 17_091_657)
WEBFACE4M = DataSet("WebFace4M", 205_990, 4_235_242)
WEBFACE12M = DataSet("WebFace12M", 617_970, 12_720_066)
WEBFACE42M = DataSet("WebFace42M", 2_059_906, 42_474_557)

R50_MAGFACE = Speed(3388.66, "MagFace's table: r50 in float16, 85,742 identities, 8 V100")
R100_MAGFACE = Speed(2013.90, "MagFace's table: r100 in float16, 85,742 identities, 8 V100")
R50_ARCFACE_TORCH = Speed(
    4824, "arcface_torch's table: r50, 125,000 identities, model parallel, 8 V100"
)
R50_PARTIAL_FC = Speed(
    4738, "arcface_torch's table: r50, 1.4 million identities, Partial FC .1, 8 V100"
)


def stream_of_crops() -> DataConfig:
    """Whatever data.root holds, 112×112, decoded on the way; all of it trains, and data.verify
    names what verifies.
    """
    return DataConfig(source="auto", image_size=112, test_fraction=0.0, loading="stream")


def published_size(name: str, **settings: Any) -> ModelConfig:
    """A backbone as published, computed in bfloat16."""
    return ModelConfig(name=name, width=64, embedding_size=512, dtype="bfloat16", **settings)


def long_run(steps: int, batch_size: int, accumulate: int = 1) -> RunConfig:
    """Verified every 2,000 steps, as arcface_torch does; the best checkpoint stays."""
    return RunConfig(
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        evaluate_every=2000,
        keep=2,
        keep_best=1,
        log_every=50,
    )


def steps_of(epochs: int, data: DataSet, batch_size: int) -> int:
    """Whole batches of an epoch, times the epochs."""
    return epochs * (data.images // batch_size)
